"""While an installation is being removed, its namespace takes no new ManagedSessions.

A ResourceQuota of zero does that: neither a webhook's event nor claimed work can add a resource between the
last deletion and the operator's end, and what is there can still be changed and deleted.
"""

from __future__ import annotations

from managed_session_api.names import GROUP, PLURAL

from managed_session_cli.cluster import Cluster, Object, Reference
from managed_session_cli.installation import PART_OF, Installation

_HARD = {f"count/{PLURAL}.{GROUP}": "0"}


def guard(installation: Installation) -> Object:
    """The ResourceQuota."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {
            "name": "managed-sessions-uninstall",
            "namespace": installation.namespace,
            "labels": PART_OF,
        },
        "spec": {"hard": _HARD},
    }


def put_guard(cluster: Cluster, installation: Installation) -> None:
    """Refuse new ManagedSessions from now on."""
    manifest = guard(installation)
    cluster.apply(manifest)
    # What counts is the status, which the cluster's controller would fill in a moment later.
    cluster.merge(Reference.to(manifest), {"status": {"hard": _HARD, "used": _HARD}}, subresource="status")


def remove_guard(cluster: Cluster, installation: Installation) -> None:
    """Accept ManagedSessions again, after an uninstall that was broken off."""
    reference = Reference.to(guard(installation))
    if cluster.get(reference) is not None:
        cluster.delete(reference)
