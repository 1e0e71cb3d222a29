"""Finds sessions whose worker waits for the session's user, and describes the wait."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_api.times import to_wire

from managed_session_operator.domain.worker_run import WorkerRun

AGES = (("1m", 60), ("10m", 600), ("1h", 3600), ("1d", 86_400), ("more", None))
"""Labels of the metric by age, with the highest age in seconds of each."""

NO_WAIT: dict[str, None] = {
    "awaitingUserSince": None,
    "awaitedAnswers": None,
    "waitPausedAt": None,
    "waitResumedAt": None,
}
"""What `status.work` says of a claim whose session does not wait for its user."""


def changed(resource: ManagedSession, run: WorkerRun | None) -> bool:
    """Return whether the worker has begun or ceased to wait since the status was written, or for what."""
    if run is None or not run.live:
        return False
    recorded = tuple(resource.status.work.awaited_answers or ())
    return bool(run.awaiting) != waits(resource) or (bool(run.awaiting) and run.awaiting != recorded)


def message(resource: ManagedSession) -> str | None:
    """Return the message about the wait; None if the session does not wait for its user."""
    work = resource.status.work
    if work.awaiting_user_since is None:
        return None
    paused = work.wait_paused_at is not None
    return words(
        work.awaiting_user_since,
        tuple(work.awaited_answers or ()),
        state=resource.status.sandbox.state if paused else SandboxState.RUNNING,
    )


def words(
    since: datetime, answers: tuple[str, ...], *, state: SandboxState | None = SandboxState.RUNNING
) -> str:
    """Describe a wait, and what it costs meanwhile."""
    what = ", ".join(answers) or "its user to answer a tool call"
    match state:
        case SandboxState.RUNNING:
            place = "Its sandbox keeps its slot."
        case SandboxState.PAUSED:
            place = "Its sandbox is paused and holds no slot; the answer resumes it."
        case _:
            place = "It holds no slot; the answer is served in a new sandbox."
    return f"The session has been waiting since {to_wire(since)} for {what}. {place}"


def by_age(times: Iterable[datetime], now: datetime) -> dict[str, int]:
    """Return how many waits there are of each age in `AGES`."""
    found = {name: 0 for name, _ in AGES}
    for time in times:
        age = now - time
        found[next(name for name, most in AGES if most is None or age <= timedelta(seconds=most))] += 1
    return found


def waits(resource: ManagedSession) -> bool:
    """Return whether the session's worker waits for its user, in a running or a paused sandbox."""
    work = resource.status.work
    return work.awaiting_user_since is not None and work.finished_at is None


def is_paused(resource: ManagedSession) -> bool:
    """Return whether the session's claim rests, because the sandbox was paused while its user is awaited."""
    work = resource.status.work
    return work.wait_paused_at is not None and work.claim is not None and work.finished_at is None
