"""Finds sessions whose worker waits for the session's user, and describes the wait."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire

from managed_session_operator.domain.worker_run import WorkerRun


def changed(resource: ManagedSession, run: WorkerRun | None) -> bool:
    """Return whether the worker has begun or ceased to wait since the status was written."""
    return run is not None and run.live and bool(run.awaiting) != _waits(resource)


def message(resource: ManagedSession, run: WorkerRun | None) -> str | None:
    """Return the message about the wait; None if the session does not wait for its user."""
    since = resource.status.work.awaiting_user_since
    if since is None:
        return None
    return words(since, run.awaiting if run is not None else ())


def words(since: datetime, answers: tuple[str, ...]) -> str:
    """Describe a wait."""
    what = ", ".join(answers) or "its user to answer a tool call"
    return f"The session has been waiting since {to_wire(since)} for {what}. Its sandbox keeps its slot."


def begun(resources: Iterable[ManagedSession]) -> list[datetime]:
    """Return the times at which sessions began to wait for their user."""
    times = (each.status.work.awaiting_user_since for each in resources if _waits(each))
    return [time for time in times if time is not None]


def _waits(resource: ManagedSession) -> bool:
    work = resource.status.work
    return work.awaiting_user_since is not None and work.finished_at is None
