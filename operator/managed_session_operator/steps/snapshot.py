"""What a pause has saved, and what it has not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.clients.sandboxes import SandboxView
from managed_session_operator.context import Context
from managed_session_operator.status import Verdict, workspace_lost

_SAME = timedelta(milliseconds=1)
"""Times of one period may differ by what a format leaves out."""


def saved_sandbox(view: SandboxView) -> dict[str, Any]:
    """`status.sandbox` after the pause that left the sandbox as in `view`."""
    return {"state": str(SandboxState.PAUSED), "savedPeriodStartedAt": view.started_at}


def rolled_back(resource: ManagedSession, view: SandboxView) -> bool:
    """Whether the paused sandbox, which has run since its newest pause, is that older state again.

    A pause that fails in E2B may leave the snapshot before, and with it the start of that one's period.
    """
    before = resource.status.sandbox.saved_period_started_at
    return before is not None and view.started_at <= before + _SAME


def saved_verdicts(context: Context, resource: ManagedSession, view: SandboxView) -> list[Verdict]:
    """The condition and the Event of a pause that lost what was done since the one before."""
    ran = resource.status.sandbox.state is SandboxState.RUNNING
    ran = ran or context.memory(resource.metadata.name).sandbox is not None
    if not ran or not rolled_back(resource, view):
        return []
    since = resource.status.work.offered_at or view.started_at
    message = (
        f"pausing sandbox {view.sandbox_id} failed in E2B, which went back to an earlier state: what was "
        f"written since {since:%Y-%m-%dT%H:%M:%SZ} is lost"
    )
    context.event(resource, Reason.WORKSPACE_ROLLED_BACK, message, warning=True)
    return [workspace_lost(message, Reason.WORKSPACE_ROLLED_BACK)]
