"""ManagedSessions as commands look at them."""

from __future__ import annotations

import re

from managed_session_api.conditions import REASONS, ConditionType, Reason
from managed_session_api.names import API_VERSION, KIND, is_session_id, resource_name
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_cli.cluster import Cluster, Object, Reference
from managed_session_cli.errors import CommandError

_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def find_session(cluster: Cluster, namespace: str, wanted: str) -> ManagedSession:
    """The resource of this name, or for the session of this ID.

    Raises:
        CommandError: there is none.
    """
    if _OBJECT_NAME.fullmatch(wanted):
        found = cluster.get(Reference(API_VERSION, KIND, wanted, namespace))
        if found is not None:
            return ManagedSession.model_validate(found)
    found = session_of(cluster, namespace, wanted)
    if found is None:
        raise CommandError(
            f"there is no ManagedSession for {wanted} in the namespace {namespace}: give the session's ID or "
            "the resource's name; `kubectl get managedsessions --all-namespaces` lists them"
        )
    return ManagedSession.model_validate(found)


def session_of(cluster: Cluster, namespace: str, session_id: str) -> Object | None:
    """The resource that serves a session; None where there is none."""
    if not is_session_id(session_id):
        return None
    found = cluster.get(Reference(API_VERSION, KIND, resource_name(session_id), namespace))
    if found is not None:
        return found
    # One that was made by hand may have any name.
    same = [s for s in cluster.list(API_VERSION, KIND, namespace) if s["spec"].get("sessionID") == session_id]
    return same[0] if same else None


def at_work(session: ManagedSession) -> bool:
    """Whether a worker acts for the session or is about to, as far as the resource shows."""
    work, sandbox = session.status.work, session.status.sandbox
    unfinished = work.claim is not None and work.finished_at is None
    return unfinished or sandbox.state in (SandboxState.RUNNING, SandboxState.CREATING)


def remedy(reason: str) -> str:
    """What a person does about a reason; empty for an unknown one."""
    known = {each.value: each for each in Reason}.get(reason)
    return REASONS[known].remedy if known in REASONS else ""


def standing(session: ManagedSession) -> tuple[str, str, str]:
    """Status, reason and message of the resource's condition Ready."""
    ready = session.status.condition(ConditionType.READY)
    return (ready.status.value, ready.reason, ready.message) if ready else ("Unknown", "", "")
