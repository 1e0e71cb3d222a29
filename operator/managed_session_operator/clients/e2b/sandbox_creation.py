"""Sends the request that creates a sandbox, with the volumes that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import e2b
from managed_session_api.conditions import Reason
from managed_session_api.resource import Volume

from managed_session_operator.clients.e2b.open_calls import OPEN_SECONDS
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.sandbox import SandboxRequest

Call = Callable[..., AbstractAsyncContextManager[Any]]
_VOLUMES_SECONDS = 30.0


async def send_create(call: Call, request: SandboxRequest, idempotency_key: str) -> e2b.AsyncSandbox:
    """Create the sandbox, and before it the volumes that it needs and that may be created."""
    if request.volumes:
        await _provide(call, request.volumes)
    network: dict[str, Any] = {"allow_public_traffic": request.allow_public_traffic}
    if request.allow:
        network["allow_out"] = list(request.allow)
    if request.deny:
        network["deny_out"] = list(request.deny)
    async with call("create", OPEN_SECONDS) as sandbox:
        created: e2b.AsyncSandbox = await sandbox.create(
            template=request.template,
            timeout=request.timeout_seconds,
            metadata=dict(request.metadata),
            envs=dict(request.env),
            network=network,
            lifecycle={"on_timeout": "pause", "auto_resume": request.auto_resume},
            volume_mounts={each.path: each.name for each in request.volumes} or None,
            idempotency_key=idempotency_key,
            retries=0,
            request_timeout=OPEN_SECONDS,
        )
        return created


async def _provide(call: Call, volumes: Sequence[Volume]) -> None:
    """Check that the team has these volumes, and create those that may be created.

    Raises:
        OperationError: reason VolumeUnavailable if it has not.
    """
    existing = await _names(call)
    for volume in volumes:
        if volume.name in existing:
            continue
        if not volume.create:
            message = (
                f"The E2B team has no volume {volume.name}. Create it, or set create in its entry of "
                "spec.sandbox.volumes."
            )
            raise OperationError(ErrorKind.USER_ACTION, Reason.VOLUME_UNAVAILABLE, message)
        try:
            async with call("create_volume", _VOLUMES_SECONDS, "AsyncVolume") as api:
                await api.create(volume.name, retries=0, request_timeout=_VOLUMES_SECONDS)
        except OperationError:
            # Another session may have created it meanwhile.
            if volume.name not in await _names(call):
                raise
        existing.add(volume.name)


async def _names(call: Call) -> set[str]:
    async with call("list_volumes", _VOLUMES_SECONDS, "AsyncVolume") as api:
        return {each.name for each in await api.list(retries=0, request_timeout=_VOLUMES_SECONDS)}
