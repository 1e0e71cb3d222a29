"""Which sandboxes of E2B's list a resync kills, and when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.work_item import WorkItem, WorkList
from managed_session_operator.resync.loop import Resync

from .contexts import context
from .examples import CREATING, ENVIRONMENT, LOST, NAME, NOW, PAUSED, RUNNING, SESSION, ago, body, settings


def sandbox(sandbox_id: str, attempt: int = 0, *, identity: str = "uid-1") -> SandboxView:
    """Return a paused sandbox with the metadata of the resource of `body`."""
    metadata = {
        names.METADATA_RESOURCE_UID: identity,
        names.METADATA_SESSION: SESSION,
        names.METADATA_ATTEMPT: str(attempt),
    }
    return SandboxView(sandbox_id, True, "template", metadata, started_at=NOW, end_at=NOW)


class World:
    """Both clouds and the API server, as far as a resync needs them. Records kills.

    Args:
        bodies: resources at the API server.
        sandboxes: sandboxes at E2B.
        items: the environment's work list.
    """

    def __init__(
        self, *bodies: dict[str, Any], sandboxes: Sequence[SandboxView] = (), items: Sequence[WorkItem] = ()
    ) -> None:
        self.bodies = {each["metadata"]["name"]: each for each in bodies}
        self.sandboxes = {each.sandbox_id: each for each in sandboxes}
        self.killed: list[str] = []
        self.served_elsewhere: list[set[str]] = []
        self.made_after_next_list: dict[str, Any] | None = None

        async def work_list() -> WorkList:
            return WorkList(items, ago(20))

        async def resources() -> AsyncIterator[list[dict[str, Any]]]:
            listed = list(self.bodies.values())
            if self.made_after_next_list is not None:
                self.bodies[NAME], self.made_after_next_list = self.made_after_next_list, None
            yield listed

        async def resource(name: str) -> dict[str, Any] | None:
            return self.bodies.get(name)

        async def forget(_: str) -> None:
            """Do nothing, because no worker is listened to."""

        found = context(
            SimpleNamespace(pages=resources, get=resource),
            settings=settings(orphan_grace_seconds=0),
            queue=SimpleNamespace(items=work_list, environment_id=ENVIRONMENT),
            sandboxes=self,
            runs=SimpleNamespace(forget=forget, get=lambda *_: None),
        )
        detector = SimpleNamespace(listed=lambda foreign, _: self.served_elsewhere.append(foreign))
        self.away = False
        self.listings = found.listings
        self._resync = Resync(found, cast("Any", detector), lambda _: None)

    async def pages(
        self, metadata: Mapping[str, str], *, running_only: bool = False
    ) -> AsyncIterator[Sequence[SandboxView]]:
        """Return E2B's list."""
        assert metadata == {names.METADATA_INSTALLATION: "ours"}
        if self.away:
            raise OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, "E2B is away")
        yield [view for view in self.sandboxes.values() if not (running_only and view.paused)]

    async def kill(self, sandbox_id: str) -> bool:
        """Kill a sandbox."""
        self.killed.append(sandbox_id)
        return self.sandboxes.pop(sandbox_id, None) is not None

    async def resync(self) -> list[str]:
        """Run a resync, and return the killed sandboxes."""
        self.killed.clear()
        await self._resync.resync()
        return self.killed


@pytest.mark.parametrize("recorded", [RUNNING, PAUSED])
async def test_the_superseded_one_of_two_sandboxes_is_killed_by_the_first_resync(
    recorded: dict[str, object],
) -> None:
    resource = body(status={"sandbox": recorded})
    world = World(resource, sandboxes=[sandbox("isandbox", 1), sandbox("iother", 1)])
    assert await world.resync() == ["iother"]
    assert await world.resync() == []


async def test_a_sandbox_of_a_later_attempt_than_recorded_is_kept() -> None:
    """The status comes from an old backup. The next turn adopts the newer sandbox."""
    resource = body(status={"sandbox": RUNNING})
    world = World(resource, sandboxes=[sandbox("isandbox", 1), sandbox("inewer", 2)])
    for _ in range(3):
        assert await world.resync() == []


async def test_a_sandbox_of_a_pending_create_is_kept() -> None:
    world = World(body(status={"sandbox": CREATING}), sandboxes=[sandbox("inew", 1)])
    for _ in range(3):
        assert await world.resync() == []


@pytest.mark.parametrize("status", [None, {"sandbox": LOST}])
async def test_an_unrecorded_sandbox_may_be_adopted_until_the_second_resync(
    status: dict[str, object] | None,
) -> None:
    world = World(body(status=status), sandboxes=[sandbox("inew")])
    assert await world.resync() == []
    assert await world.resync() == ["inew"]


async def test_a_sandbox_is_adopted_when_its_resource_records_it_between_two_resyncs() -> None:
    world = World(body(), sandboxes=[sandbox("isandbox", 0)])
    assert await world.resync() == []
    world.bodies[NAME] = body(version=2, status={"sandbox": RUNNING})
    for _ in range(3):
        assert await world.resync() == []


async def test_a_vanished_sandbox_that_returns_is_kept_while_its_resource_lives() -> None:
    vanished = {**LOST, "vanished": ["iback"]}
    world = World(body(status={"sandbox": vanished}), sandboxes=[sandbox("iback", 1)])
    for _ in range(3):
        assert await world.resync() == []


async def test_the_sandbox_of_a_wiped_status_is_kept_but_not_that_of_a_lost_resource() -> None:
    wiped = World(body(), sandboxes=[sandbox("iold", 1)])
    for _ in range(3):
        assert await wiped.resync() == []
    lost = World(body(status={"sandbox": LOST}), sandboxes=[sandbox("iold", 1)])
    assert await lost.resync() == []
    assert await lost.resync() == ["iold"]


async def test_the_sandbox_of_a_resource_from_another_version_is_kept() -> None:
    odd = body(status={"sandbox": {"state": "FromAnotherVersion"}})
    world = World(odd, sandboxes=[sandbox("isandbox")])
    for _ in range(3):
        assert await world.resync() == []


async def test_findings_hold_until_a_list_shows_otherwise() -> None:
    """The next create must not overlook a sandbox because E2B was unreachable meanwhile."""
    world = World(body(), sandboxes=[sandbox("iold", 1)])
    await world.resync()
    world.away = True
    with pytest.raises(OperationError):
        await world.resync()
    assert world.listings.findings.unrecorded == {NAME}
    world.away = False
    world.sandboxes.clear()
    await world.resync()
    assert world.listings.findings.unrecorded == set()


async def test_a_sandbox_without_a_resource_is_killed_by_the_second_resync() -> None:
    world = World(sandboxes=[sandbox("iorphan")])
    assert await world.resync() == []
    assert await world.resync() == ["iorphan"]


async def test_a_resource_that_appears_during_a_resync_keeps_its_sandbox() -> None:
    """Lists are old, so a resync asks the API server again before a kill."""
    world = World(sandboxes=[sandbox("isandbox")])
    assert await world.resync() == []
    world.made_after_next_list = body(status={"sandbox": RUNNING})
    assert await world.resync() == []


@pytest.mark.parametrize(
    ("work", "elsewhere"),
    [
        (None, True),
        ({"claim": "c", "finishedAt": ago(40), "exitReason": "Idle"}, True),
        ({"claim": "c", "finishedAt": ago(10), "exitReason": "Idle"}, False),
        ({"claim": "c", "finishedAt": ago(40), "exitReason": "LeaseLost"}, False),
        ({"claim": "c"}, False),
    ],
)
async def test_work_that_was_ours_when_listed_is_not_another_installations(
    work: dict[str, Any] | None, elsewhere: bool
) -> None:
    item = WorkItem(SESSION, SESSION, "active", ago(60), latest_heartbeat_at=ago(25))
    world = World(body(status={"work": work or {}}), items=[item])
    await world.resync()
    assert world.served_elsewhere == [{SESSION} if elsewhere else set()]
