"""Judges what a pause of a sandbox has saved, and what it has lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.domain.conditions import ConditionUpdate, workspace_rolled_back
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.steps.context import Context

_SAME = timedelta(milliseconds=1)
"""Tolerance within which two times are equal, because formats differ in precision."""

NEVER_PAUSED: dict[str, None] = dict.fromkeys(("savedPeriodStartedAt", "savedAt", "vcpus", "memoryMib"))
"""What `status.sandbox` says of a sandbox before its first pause."""


def saved_sandbox(view: SandboxView, now: datetime) -> dict[str, Any]:
    """Return `status.sandbox` for a sandbox that was just paused, or that goes on for other sessions."""
    if not view.paused:
        # What the session has done until now is there after any later pause, or the sandbox went back.
        return {"state": str(SandboxState.PAUSED), "savedAt": now}
    return {"state": str(SandboxState.PAUSED), **saved_pause(view, now)}


def saved_pause(view: SandboxView, now: datetime) -> dict[str, Any]:
    """Return what `status.sandbox` says of a pause: how a later failed one is recognized, and the size.

    While a pause is in progress, E2B reports the end of the countdown as `endAt`. That time is in the future,
    so the present time is recorded instead.
    """
    size = {"vcpus": view.vcpus, "memoryMib": view.memory_mib}
    known = {name: number for name, number in size.items() if number is not None}
    return {"savedPeriodStartedAt": view.started_at, "savedAt": min(view.end_at, now), **known}


def rolled_back(resource: ManagedSession, view: SandboxView) -> bool:
    """Return whether the paused sandbox went back to the state before its last running period.

    E2B records a period's start before it asks the machine to pause. So after a failed pause, `startedAt` is
    the start of the lost period, and `endAt` is the time of the newest good snapshot. If E2B reports the
    older period instead, `startedAt` shows it.
    """
    sandbox, before = resource.status.sandbox, resource.status.sandbox.saved_period_started_at
    if view.end_at < view.started_at - _SAME:
        return True
    if sandbox.saved_at is not None and view.end_at <= sandbox.saved_at + _SAME:
        return True
    return before is not None and view.started_at <= before + _SAME


def saved_conditions(
    context: Context, resource: ManagedSession, view: SandboxView, *, ran: bool = False
) -> list[ConditionUpdate]:
    """Return the WorkspaceLost condition if a pause lost what was done since the pause before it.

    Args:
        context: the operator's context.
        resource: the resource, before the pause is recorded.
        view: the paused sandbox.
        ran: whether the sandbox certainly ran since its last pause, whatever the resource says.
    """
    if not view.paused:
        return []
    ran = ran or resource.status.sandbox.state is SandboxState.RUNNING
    ran = ran or context.cache(resource.metadata.name).sandbox is not None
    if not ran or not rolled_back(resource, view):
        return []
    message = (
        f"Sandbox {view.sandbox_id} crashed, or pausing it failed in E2B, and it went back to an earlier "
        f"state. Everything written since {view.end_at:%Y-%m-%dT%H:%M:%SZ} is lost."
    )
    return [workspace_rolled_back(message)]
