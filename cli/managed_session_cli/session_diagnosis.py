"""What a doctor says about one session: pure functions over the resource and its sandbox."""

from __future__ import annotations

from datetime import datetime

from managed_session_api.conditions import ConditionStatus, ConditionType
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_cli.clouds import Sandbox
from managed_session_cli.diagnosis import Check, Verdict, sessions
from managed_session_cli.sessions import remedy


def session_checks(
    session: ManagedSession, sandbox: Sandbox | None, *, asked: bool, now: datetime
) -> list[Check]:
    """The session's state, its conditions, its sandbox and its newest work.

    Args:
        session: the resource.
        sandbox: what E2B says of the recorded sandbox; None where it has none.
        asked: whether E2B was asked.
        now: the current time.
    """
    checks = [each for each in sessions([session]) if each.name != "sessions"]
    if not checks:
        ready = session.status.condition(ConditionType.READY)
        text = f"{ready.reason}: {ready.message}" if ready else "the operator has not looked at it yet"
        checks = [Check(f"session {session.spec.session_id}", Verdict.OK, text)]
    lost = session.status.condition(ConditionType.WORKSPACE_LOST)
    if lost is not None and lost.status is ConditionStatus.TRUE:
        checks.append(Check("files", Verdict.WARNING, f"{lost.reason}: {lost.message}", remedy(lost.reason)))
    checks.append(_sandbox(session, sandbox, asked=asked))
    checks.append(_work(session, now))
    event = session.status.last_event
    if event is not None:
        text = f"{event.type} of {event.created_at:%Y-%m-%d %H:%M:%S} UTC"
        checks.append(Check("newest event", Verdict.OK, text))
    return checks


def _sandbox(session: ManagedSession, sandbox: Sandbox | None, *, asked: bool) -> Check:
    recorded = session.status.sandbox
    if recorded.id is None:
        return Check("sandbox", Verdict.OK, "none yet")
    if not asked:
        return Check(
            "sandbox", Verdict.SKIPPED, f"{recorded.id}, {recorded.state}; E2B was not asked: no key"
        )
    if sandbox is None:
        return Check(
            "sandbox", Verdict.FAILED, f"E2B no longer knows {recorded.id}", remedy("SandboxVanished")
        )
    seen = SandboxState.PAUSED if sandbox.paused else SandboxState.RUNNING
    text = f"{recorded.id}, {seen.value} in E2B"
    if recorded.state is not None and recorded.state is not seen:
        return Check(
            "sandbox",
            Verdict.WARNING,
            f"{text}, {recorded.state.value} in the resource",
            "A change under way looks like this; else the operator's sweep brings both together in a minute.",
        )
    return Check("sandbox", Verdict.OK, text)


def _work(session: ManagedSession, now: datetime) -> Check:
    work = session.status.work
    served = f"{session.status.turns} turns served"
    if work.claim is None:
        return Check("work", Verdict.OK, f"no work was claimed yet, {served}")
    if work.finished_at is not None:
        return Check(
            "work",
            Verdict.OK,
            f"{served}; the newest worker ended {_ago(work.finished_at, now)}: {work.exit_reason}",
        )
    if work.first_heartbeat_at is not None:
        return Check(
            "work", Verdict.OK, f"{served}; a worker acts since {_ago(work.first_heartbeat_at, now)}"
        )
    return Check("work", Verdict.OK, f"{served}; work was claimed, start {work.attempts} is under way")


def _ago(then: datetime, now: datetime) -> str:
    return f"{(now - then).total_seconds():.0f} s ago"
