"""Removes ManagedSandboxes that an uninstalled operator has left: part of `managed-sessions uninstall`."""

from __future__ import annotations

from contextlib import suppress

from managed_session_api.names import API_VERSION, FINALIZER, GROUP, SHARED_KIND, SHARED_PLURAL
from rich.console import Console

from managed_session_cli.cluster import Cluster, Permission, Reference
from managed_session_cli.errors import NotFoundError
from managed_session_cli.installation import Installation


def delete_shared_sandboxes(cluster: Cluster, installation: Installation, console: Console) -> None:
    """Delete the ManagedSandboxes that no operator is left to release. What they own is killed next.

    Usually there are none: the operator removes each with its last session.
    """
    namespace = installation.namespace
    if not cluster.may(Permission("list", GROUP, SHARED_PLURAL, namespace)):
        return
    left = cluster.list(API_VERSION, SHARED_KIND, namespace)
    needed = [Permission(verb, GROUP, SHARED_PLURAL, namespace) for verb in ("delete", "patch")]
    if left and not all(cluster.may(each) for each in needed):
        names = ", ".join(each["metadata"]["name"] for each in left)
        console.print(f"  ! you lack permissions to delete these ManagedSandboxes: {names}", markup=False)
        return
    for each in left:
        metadata = each["metadata"]
        reference = Reference(API_VERSION, SHARED_KIND, metadata["name"], namespace)
        others = [one for one in metadata.get("finalizers", []) if one != FINALIZER]
        cluster.delete(reference)
        with suppress(NotFoundError):
            cluster.merge(reference, {"metadata": {"finalizers": others or None}})
