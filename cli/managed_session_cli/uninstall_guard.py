"""Keeps new ManagedSessions out of the namespace of an installation that is being removed.

A ResourceQuota of zero does that. Neither an event nor claimed work can then create a resource between the
last deletion and the operator's end, while existing ones can still be changed and deleted.
"""

from __future__ import annotations

from managed_session_api.names import GROUP, PLURAL

from managed_session_cli.cluster import Cluster, Object, Reference
from managed_session_cli.installation import PART_OF, Installation

_HARD = {f"count/{PLURAL}.{GROUP}": "0"}


def guard(installation: Installation) -> Object:
    """Return the ResourceQuota."""
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
    """Reject new ManagedSessions from now on."""
    manifest = guard(installation)
    cluster.apply(manifest)
    # The API server enforces the status, which a controller would fill in a moment later.
    cluster.merge(Reference.to(manifest), {"status": {"hard": _HARD, "used": _HARD}}, subresource="status")


def remove_guard(cluster: Cluster, installation: Installation) -> None:
    """Accept ManagedSessions again, after an uninstall that was interrupted."""
    reference = Reference.to(guard(installation))
    if cluster.get(reference) is not None:
        cluster.delete(reference)
