"""Finds ManagedSessions and reads their conditions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from managed_session_api.conditions import ConditionType
from managed_session_api.names import API_VERSION, KIND, is_session_id, resource_name
from managed_session_api.reasons import REASONS
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_cli.cluster import Cluster, Object, Reference
from managed_session_cli.errors import CommandError

T = TypeVar("T")

_SHOWN = 5
"""How many of the sessions are named that a prefix fits."""
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def find_session(cluster: Cluster, namespace: str, wanted: str) -> ManagedSession:
    """Return the ManagedSession of this name, for the session of this ID, or with a unique prefix of either.

    Raises:
        CommandError: there is none, or a prefix fits several.
    """
    if _OBJECT_NAME.fullmatch(wanted):
        found = cluster.get(Reference(API_VERSION, KIND, wanted, namespace))
        if found is not None:
            return ManagedSession.model_validate(found)
    found = session_of(cluster, namespace, wanted)
    if found is None:
        listed = cluster.list(API_VERSION, KIND, namespace)
        entries = [(each["metadata"]["name"], each["spec"].get("sessionID", ""), each) for each in listed]
        found = chosen(entries, wanted, namespace)
    return ManagedSession.model_validate(found)


def chosen(entries: Sequence[tuple[str, str, T]], wanted: str, namespace: str = "") -> T:
    """Return what belongs to a name, an ID or a unique prefix of either.

    Args:
        entries: name, session ID and what belongs to them.
        wanted: what the user gave.
        namespace: where they are, for errors; empty for all namespaces.

    Raises:
        CommandError: there is none, or several.
    """
    exact = [each for name, session_id, each in entries if wanted in (name, session_id)]
    begun = [
        (name, each)
        for name, session_id, each in entries
        if wanted and (name.startswith(wanted) or session_id.startswith(wanted))
    ]
    if len(exact) == 1:
        return exact[0]
    if len(begun) == 1:
        return begun[0][1]
    where = f"in the namespace {namespace}" if namespace else "here"
    if not begun:
        raise CommandError(
            f"there is no ManagedSession for {wanted} {where}. Pass the ID of the session, the name of its "
            "ManagedSession, or the beginning of either; `managed-sessions get --all-namespaces` lists them."
        )
    names = ", ".join(name for name, _ in begun[:_SHOWN])
    more = f" and {len(begun) - _SHOWN} more" if len(begun) > _SHOWN else ""
    raise CommandError(f"{wanted} fits {len(begun)} sessions: {names}{more}. Write more of it.")


def session_of(cluster: Cluster, namespace: str, session_id: str) -> Object | None:
    """Return the resource of a session; None if there is none."""
    if not is_session_id(session_id):
        return None
    found = cluster.get(Reference(API_VERSION, KIND, resource_name(session_id), namespace))
    if found is not None:
        return found
    # One that was created by hand may have any name.
    same = [s for s in cluster.list(API_VERSION, KIND, namespace) if s["spec"].get("sessionID") == session_id]
    return same[0] if same else None


def at_work(session: ManagedSession) -> bool:
    """Return whether a worker runs for the session or is about to, as far as the resource shows."""
    work, sandbox = session.status.work, session.status.sandbox
    unfinished = work.claim is not None and work.finished_at is None
    return unfinished or sandbox.state in (SandboxState.RUNNING, SandboxState.CREATING)


def remedy(reason: str) -> str:
    """Return what to do about a reason; empty for an unknown one."""
    documented = {str(each): doc for each, doc in REASONS.items()}.get(reason)
    return documented.remedy if documented else ""


def ready_condition(session: ManagedSession) -> tuple[str, str, str]:
    """Return status, reason and message of the condition Ready."""
    ready = session.status.condition(ConditionType.READY)
    return (ready.status.value, ready.reason, ready.message) if ready else ("Unknown", "", "")
