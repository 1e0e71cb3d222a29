"""Which concurrent changes of a resource let a write of its status pass."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.conditions import Phase
from managed_session_api.resource import ManagedSession
from managed_session_operator.domain.errors import ConflictError, ResourceGoneError

from .contexts import context
from .examples import PAUSED, announced_run, body, session, work

READ = session({"sandbox": PAUSED})
"""The resource on which the write was decided."""


class ApiServer:
    """Has one resource, and refuses writes that were decided on another version."""

    def __init__(self, present: dict[str, Any] | None) -> None:
        self.present = present
        self.written: list[dict[str, Any]] = []

    async def get(self, _: str) -> dict[str, Any] | None:
        return self.present

    async def patch_status(self, resource: ManagedSession, status: dict[str, Any]) -> dict[str, Any]:
        assert self.present is not None
        version = int(self.present["metadata"]["resourceVersion"])
        if int(resource.metadata.resource_version) != version:
            raise ConflictError("status")
        self.written.append(status)
        metadata = {**self.present["metadata"], "resourceVersion": str(version + 1)}
        self.present = {**self.present, "metadata": metadata, "status": {**self.present["status"], **status}}
        return self.present


async def write(server: ApiServer) -> ManagedSession:
    """Write the phase as decided."""
    records = context(store=server).records
    return await records.write_status(READ, phase=Phase.SUSPENDED)


@pytest.mark.parametrize(
    "changed",
    [
        body(status={"sandbox": PAUSED, "lastEvent": announced_run()}, version=2),
        body(status={"sandbox": PAUSED}, spec={"lifecycle": {"suspend": True}}, version=2),
        body(status={"sandbox": PAUSED}, labels={"team": "red"}, version=2),
    ],
    ids=["the webhook's event", "a person's spec", "a label"],
)
async def test_a_write_passes_if_others_changed_their_own_fields(changed: dict[str, Any]) -> None:
    server = ApiServer(changed)
    written = await write(server)
    assert written.status.phase == Phase.SUSPENDED
    assert written.metadata.resource_version == "3"
    assert written.spec == ManagedSession.model_validate(changed).spec, "and nothing of theirs is lost"


@pytest.mark.parametrize(
    "changed",
    [
        body(status={"sandbox": PAUSED, "work": work()}, version=2),
        body(status={"sandbox": {**PAUSED, "state": "Running"}}, version=2),
    ],
    ids=["another operator's claim", "another operator's sandbox"],
)
async def test_a_write_fails_if_another_operator_has_written(changed: dict[str, Any]) -> None:
    server = ApiServer(changed)
    with pytest.raises(ConflictError):
        await write(server)
    assert server.written == []


@pytest.mark.parametrize("present", [None, body(status={"sandbox": PAUSED}, uid="uid-2", version=2)])
async def test_a_write_never_reaches_another_resource_of_the_same_name(
    present: dict[str, Any] | None,
) -> None:
    server = ApiServer(present or body(status={"sandbox": PAUSED}, version=2))

    async def get(_: str) -> dict[str, Any] | None:
        return present

    server.get = get  # type: ignore[method-assign]
    with pytest.raises(ResourceGoneError):
        await write(server)
    assert server.written == []
