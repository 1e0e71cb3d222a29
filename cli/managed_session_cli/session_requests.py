"""`managed-sessions pause`, `resume` and `retry`: what a person asks of a session, through its resource.

The commands change `spec`; the operator does the rest, also if a command is interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from managed_session_api.conditions import PASSING_REASONS, Reason
from managed_session_api.names import API_VERSION, CLASS_KIND, KIND
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.errors import CommandError, NotFoundError
from managed_session_cli.installation import Installation
from managed_session_cli.sessions import find_session, ready_condition, remedy

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Options:
    """The options of the commands.

    Attributes:
        sessions: names, IDs, or unique beginnings of either.
        wait: whether to wait until the operator has done it.
        timeout: how long, for all sessions together, in seconds.
    """

    sessions: Sequence[str]
    wait: bool
    timeout: float


def pause(cluster: Cluster, installation: Installation, options: Options) -> None:
    """Suspend sessions, and wait until their sandboxes are paused.

    Raises:
        CommandError: there is no such session, or it was not done in time.
    """
    found = [find_session(cluster, installation.namespace, each) for each in options.sessions]
    for session in found:
        if session.spec.lifecycle.suspend:
            print(f"{session.metadata.name} is paused already")
        else:
            _patch(cluster, session, {"lifecycle": {"suspend": True}})
    waiting = _Waiting(cluster, options)
    for session in found:
        waiting.until(session, is_paused, "paused")


def resume(cluster: Cluster, installation: Installation, options: Options) -> None:
    """Serve suspended sessions again (raises as `pause`, and if a class suspends one of them)."""
    found = [find_session(cluster, installation.namespace, each) for each in options.sessions]
    for session in found:
        if session.spec.lifecycle.suspend:
            _patch(cluster, session, {"lifecycle": {"suspend": None}})
        elif is_suspended(session):
            raise CommandError(_by_class(session))
        else:
            print(f"{session.metadata.name} is not paused")
    waiting = _Waiting(cluster, options)
    for session in found:
        now = waiting.until(session, is_resumed, "resumed")
        if options.wait and is_suspended(now):
            raise CommandError(_by_class(now))


def retry(cluster: Cluster, installation: Installation, options: Options) -> None:
    """Ask the operator to try sessions again at once, and report what became of them.

    Raises:
        CommandError: there is no such session, or it still cannot be served.
    """
    found = [find_session(cluster, installation.namespace, each) for each in options.sessions]
    request = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    for session in found:
        _patch(cluster, session, {"requests": {"retry": request}})
    waiting = _Waiting(cluster, options)
    left = []
    for session in found:
        now = waiting.until(session, lambda each: is_answered(each, request), "tried again")
        if options.wait and (problem := unresolved(now)):
            left.append(problem)
    if left:
        raise CommandError("\n".join(left))


def is_suspended(session: ManagedSession) -> bool:
    """Return whether the operator reports that the session is not served for now."""
    return ready_condition(session)[1] == Reason.SUSPENDED


def is_paused(session: ManagedSession) -> bool:
    """Return whether a suspended session is at rest."""
    return is_suspended(session) and session.status.sandbox.state is not SandboxState.RUNNING


def is_resumed(session: ManagedSession) -> bool:
    """Return whether the operator has taken up that the session is not suspended by its own spec."""
    observed = session.status.observed_generation or 0
    return observed >= session.metadata.generation and not session.spec.lifecycle.suspend


def is_answered(session: ManagedSession, request: str) -> bool:
    """Return whether the operator has served the request and knows how the session is now."""
    status, reason, _ = ready_condition(session)
    passing = status != "True" and reason in (*PASSING_REASONS, Reason.RECOVERING)
    return session.status.requests.retry == request and not passing


def unresolved(session: ManagedSession) -> str | None:
    """Return what keeps the session from being served, with what to do; None if nothing does."""
    status, reason, message = ready_condition(session)
    if status == "True":
        return None
    return f"{session.metadata.name} is still not ready ({reason}: {message})\n{remedy(reason)}".rstrip()


def _by_class(session: ManagedSession) -> str:
    chosen = session.status.session_class
    name = chosen.name if chosen else "of the session"
    return (
        f"the class {name} suspends its sessions, {session.metadata.name} among them. Change the "
        f"{CLASS_KIND}, or let this session differ: kubectl patch managedsession {session.metadata.name} "
        f"--namespace={session.metadata.namespace} --type=merge "
        """--patch='{"spec":{"lifecycle":{"suspend":false}}}'"""
    )


def _reference(session: ManagedSession) -> Reference:
    return Reference(API_VERSION, KIND, session.metadata.name, session.metadata.namespace)


def _patch(cluster: Cluster, session: ManagedSession, spec: dict[str, Any]) -> None:
    cluster.merge(_reference(session), {"spec": spec})


class _Waiting:
    """Waits for several sessions one after the other, all within one time limit."""

    def __init__(self, cluster: Cluster, options: Options) -> None:
        self._cluster = cluster
        self._options = options
        self._deadline = time.monotonic() + options.timeout

    def until(
        self, session: ManagedSession, reached: Callable[[ManagedSession], bool], done: str
    ) -> ManagedSession:
        """Return the session once it is so. Without `--wait`, say that it was asked for."""
        name = session.metadata.name
        if not self._options.wait:
            print(f"{name} will be {done}")
            return session
        while True:
            found = self._cluster.get(_reference(session))
            if found is None:
                raise NotFoundError(f"{name} was deleted")
            now = ManagedSession.model_validate(found)
            if reached(now):
                print(f"{name} {done}")
                return now
            if time.monotonic() > self._deadline:
                _, reason, message = ready_condition(now)
                raise CommandError(
                    f"{name} was not {done} within {self._options.timeout:g} s ({reason}: {message}). The "
                    "operator goes on with it; `managed-sessions doctor` says whether one runs."
                )
            time.sleep(_POLL_SECONDS)
