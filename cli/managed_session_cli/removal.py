"""In which order an installation's objects are removed, and what has to stay."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from managed_session_local.manifests import DELETION_GUARD

from managed_session_cli.cluster import Object, Reference
from managed_session_cli.installation import PART_OF


def given_namespaces(namespaces: Sequence[Object]) -> set[str]:
    """Names of those that no installation has made, since they lack its label; these stay."""
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
    given: Collection[str] = (),
    guarded: bool = True,
) -> list[Reference]:
    """All objects in the order of their removal: what others build on goes last.

    Args:
        manifests: in the order in which they are applied.
        extra: namespaced objects that are in no manifest.
        cluster_wide: also what other installations share: the resource's definition, the policy on webhooks
            and roles for people.
        given: names of namespaces that stay.
        guarded: also this installation's guard against a deletion in the wrong order.
    """
    references = [Reference.to(each) for each in reversed(manifests)]
    guards = [each for each in references if each.name == DELETION_GUARD] if guarded else []
    namespaces = [each for each in references if each.kind == "Namespace" and each.name not in given]
    namespaced = [each for each in references if each.namespace]
    shared = [each for each in references if is_cluster_wide(each) and each.name != DELETION_GUARD]
    return [*guards, *namespaced, *extra, *namespaces, *(shared if cluster_wide else [])]


def is_cluster_wide(reference: Reference) -> bool:
    """Whether an object belongs to the whole cluster and is no namespace."""
    return not reference.namespace and reference.kind != "Namespace"


def cluster_wide_stays(sessions: Sequence[Object], operators: Sequence[Object], *, keep: bool) -> str | None:
    """Why the definition and what else is shared has to stay; None if it may go.

    Args:
        sessions: the ManagedSessions of all namespaces, after this installation's are gone.
        operators: the operator Deployments of all namespaces, after this installation's is gone.
        keep: the user wants it to stay.
    """
    if keep:
        return "as asked by --keep-crd"
    if sessions:
        namespaces = sorted({each["metadata"]["namespace"] for each in sessions})
        return f"{len(sessions)} ManagedSessions are in other namespaces ({', '.join(namespaces)})"
    if operators:
        namespaces = sorted({each["metadata"]["namespace"] for each in operators})
        return f"other installations use it (operator in {', '.join(namespaces)})"
    return None


def describe_waiting(sessions: Sequence[Object]) -> list[str]:
    """A line for each session that is not gone, with what its condition Ready says."""
    lines = []
    for session in sessions:
        conditions = session.get("status", {}).get("conditions", [])
        ready: Object = next((each for each in conditions if each["type"] == "Ready"), {})
        why = f"{ready.get('reason', 'unknown')}: {ready.get('message', '')}".rstrip(": ")
        lines.append(f"{session['metadata']['name']} ({session['spec']['sessionID']}): {why}")
    return lines
