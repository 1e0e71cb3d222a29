"""Finds ManagedSessions and reads their conditions."""

from __future__ import annotations

import re

from managed_session_api.conditions import ConditionType
from managed_session_api.names import API_VERSION, KIND, is_session_id, resource_name
from managed_session_api.reasons import REASONS
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_cli.cluster import Cluster, Object, Reference
from managed_session_cli.errors import CommandError

_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def find_session(cluster: Cluster, namespace: str, wanted: str) -> ManagedSession:
    """Return the ManagedSession of this name, or for the session of this ID.

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
            f"there is no ManagedSession for {wanted} in the namespace {namespace}. Pass the ID of the "
            "session or the name of its ManagedSession; `kubectl get managedsessions --all-namespaces` lists "
            "both."
        )
    return ManagedSession.model_validate(found)


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
