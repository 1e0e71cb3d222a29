"""Draws the conclusions of `doctor` about one session. Pure functions over its resource and its sandbox."""

from __future__ import annotations

from datetime import datetime

from managed_session_api.conditions import ConditionStatus, ConditionType
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_cli.clouds import Sandbox
from managed_session_cli.diagnosis import Check, CheckResult, sessions
from managed_session_cli.sessions import remedy
from managed_session_cli.wording import counted


def session_checks(
    session: ManagedSession, sandbox: Sandbox | None, *, asked: bool, now: datetime
) -> list[Check]:
    """Check the session's conditions, its class, its sandbox and its newest work.

    Args:
        session: the resource.
        sandbox: the recorded sandbox as E2B shows it; None if E2B does not have it.
        asked: whether E2B was asked.
        now: the current time.
    """
    checks = [each for each in sessions([session]) if each.name != "sessions"]
    if not checks:
        ready = session.status.condition(ConditionType.READY)
        text = f"{ready.reason}: {ready.message}" if ready else "the operator has not reconciled it yet"
        checks = [Check(f"session {session.spec.session_id}", CheckResult.OK, text)]
    checks += _class(session)
    lost = session.status.condition(ConditionType.WORKSPACE_LOST)
    if lost is not None and lost.status is ConditionStatus.TRUE:
        checks.append(
            Check("files", CheckResult.WARNING, f"{lost.reason}: {lost.message}", remedy(lost.reason))
        )
    checks.append(_sandbox(session, sandbox, asked=asked))
    checks.append(_work(session, now))
    event = session.status.last_event
    if event is not None:
        text = f"{event.type} of {event.created_at:%Y-%m-%d %H:%M:%S} UTC"
        checks.append(Check("newest event", CheckResult.OK, text))
    return checks


def _class(session: ManagedSession) -> list[Check]:
    """Check that the session's class applies in full. Nothing if no class was ever chosen."""
    chosen = session.status.session_class
    text = f"{chosen.name}, generation {chosen.generation}" if chosen else "none was chosen"
    differs = session.status.condition(ConditionType.POLICY_APPLIED)
    if differs is not None and differs.status is ConditionStatus.FALSE:
        text = f"{text}; {differs.reason}: {differs.message}"
        return [Check("class", CheckResult.WARNING, text, remedy(differs.reason))]
    return [Check("class", CheckResult.OK, text)] if chosen else []


def _sandbox(session: ManagedSession, sandbox: Sandbox | None, *, asked: bool) -> Check:
    recorded = session.status.sandbox
    if recorded.id is None:
        return Check("sandbox", CheckResult.OK, "none yet")
    if not asked:
        return Check(
            "sandbox", CheckResult.SKIPPED, f"{recorded.id}, {recorded.state}; E2B was not asked: no key"
        )
    if sandbox is None:
        return Check(
            "sandbox", CheckResult.FAILED, f"E2B no longer knows {recorded.id}", remedy("SandboxVanished")
        )
    seen = SandboxState.PAUSED if sandbox.paused else SandboxState.RUNNING
    text = f"{recorded.id}, {seen.value} in E2B"
    if recorded.state is not None and recorded.state is not seen:
        return Check(
            "sandbox",
            CheckResult.WARNING,
            f"{text}, {recorded.state.value} in the resource",
            "Expected while the sandbox changes. Otherwise the operator corrects it within a minute.",
        )
    return Check("sandbox", CheckResult.OK, text)


def _work(session: ManagedSession, now: datetime) -> Check:
    work = session.status.work
    served = f"{counted(session.status.turns, 'turn')} served"
    if work.claim is None:
        return Check("work", CheckResult.OK, f"{served}; no work claimed yet")
    if work.finished_at is not None:
        return Check(
            "work",
            CheckResult.OK,
            f"{served}; the newest worker ended {_ago(work.finished_at, now)}: {work.exit_reason}",
        )
    if work.first_heartbeat_at is not None:
        return Check(
            "work", CheckResult.OK, f"{served}; the worker started {_ago(work.first_heartbeat_at, now)}"
        )
    return Check("work", CheckResult.OK, f"{served}; work claimed, start attempt {work.attempts} in progress")


def _ago(then: datetime, now: datetime) -> str:
    return f"{(now - then).total_seconds():.0f} s ago"
