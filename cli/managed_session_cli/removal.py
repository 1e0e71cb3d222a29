"""Decides in which order an installation's objects are removed, and what has to stay."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from managed_session_api.resource import ManagedSession

from managed_session_cli.cluster import Object, Reference
from managed_session_cli.installation import PART_OF
from managed_session_cli.manifests import DELETION_GUARD
from managed_session_cli.sessions import ready_condition


def preexisting_namespaces(namespaces: Sequence[Object]) -> set[str]:
    """Return the names of those that no installation created: they lack its label, and stay."""
    return {
        each["metadata"]["name"]
        for each in namespaces
        if not PART_OF.items() <= (each["metadata"].get("labels") or {}).items()
    }


def removal_order(
    manifests: Sequence[Object],
    extra: Sequence[Reference],
    *,
    cluster_wide: bool,
    preexisting: Collection[str] = (),
    guarded: bool = True,
) -> list[Reference]:
    """Return all objects in the order of their removal: what others depend on goes last.

    Args:
        manifests: in the order in which they are applied.
        extra: namespaced objects that are in no manifest.
        cluster_wide: include what installations share: the CRDs, admission policies and roles for people.
        preexisting: names of namespaces that stay.
        guarded: include this installation's own cluster-wide objects: the guard against a deletion in the
            wrong order, and the binding of the dashboard's rights.
    """
    references = [Reference.to(each) for each in reversed(manifests)]
    guards = [each for each in references if _is_its_own(each)] if guarded else []
    namespaces = [each for each in references if each.kind == "Namespace" and each.name not in preexisting]
    namespaced = [each for each in references if each.namespace]
    shared = [each for each in references if is_cluster_wide(each) and not _is_its_own(each)]
    return [*guards, *namespaced, *extra, *namespaces, *(shared if cluster_wide else [])]


def is_cluster_wide(reference: Reference) -> bool:
    """Return whether an object belongs to the whole cluster and is not a namespace."""
    return not reference.namespace and reference.kind != "Namespace"


def _is_its_own(reference: Reference) -> bool:
    """Return whether a cluster-wide object serves one installation only."""
    return reference.name == DELETION_GUARD or reference.kind == "ClusterRoleBinding"


def cluster_wide_stays(
    sessions: Sequence[Object], classes: Sequence[Object], operators: Sequence[Object], *, keep: bool
) -> str | None:
    """Return why the CRDs and the other shared objects have to stay; None if they may go.

    Args:
        sessions: the ManagedSessions of all namespaces, after this installation's are gone.
        classes: the ManagedSessionClasses of all other namespaces.
        operators: the operator Deployments of all namespaces, after this installation's is gone.
        keep: the user wants them to stay.
    """
    if keep:
        return "--keep-crd was given"
    if sessions:
        return f"there are ManagedSessions in other namespaces ({_namespaces(sessions)})"
    if classes:
        return f"there are ManagedSessionClasses in other namespaces ({_namespaces(classes)})"
    if operators:
        return f"other installations use them (operator in {_namespaces(operators)})"
    return None


def _namespaces(objects: Sequence[Object]) -> str:
    return ", ".join(sorted({each["metadata"]["namespace"] for each in objects}))


def describe_waiting(sessions: Sequence[Object]) -> list[str]:
    """Return a line for each session that is not gone, with its condition Ready."""
    lines = []
    for session in map(ManagedSession.model_validate, sessions):
        _, reason, message = ready_condition(session)
        why = f"{reason or 'unknown'}: {message}".rstrip(": ")
        lines.append(f"{session.metadata.name} ({session.spec.session_id}): {why}")
    return lines
