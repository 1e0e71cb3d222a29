"""Finds out what there is to remove, and whether the user may, before anything is removed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from managed_session_api.credentials import Credential, credentials_in
from managed_session_api.names import CLASS_PLURAL, GROUP, PLURAL

from managed_session_cli import keys
from managed_session_cli.clouds import E2BTeam
from managed_session_cli.cluster import Cluster, Object, Permission, Reference
from managed_session_cli.errors import ClusterError
from managed_session_cli.installation import (
    DASHBOARD,
    OPERATOR,
    Installation,
    installation_id,
    permissions_for,
    require_permissions,
)
from managed_session_cli.removal import is_cluster_wide, preexisting_namespaces


@dataclass(frozen=True)
class Survey:
    """What there is to remove.

    Attributes:
        credentials: from the cluster's Secrets, completed from the environment.
        e2b_key: one that E2B accepts, from either place; None if there is none.
        installation_id: in the sandboxes' metadata; None if it is unknown.
        namespaces: those of the installation's two that exist.
        preexisting: names of those that no installation created, and which stay.
        missing_permissions: required to remove cluster-wide objects.
        manifests: everything that the installation may consist of, in the order in which it is applied.
    """

    credentials: dict[str, str]
    e2b_key: str | None
    installation_id: str | None
    namespaces: list[Object]
    preexisting: set[str]
    missing_permissions: list[str]
    manifests: list[Object]


def survey(cluster: Cluster, installation: Installation, own_id: str | None) -> Survey:
    """Read everything that a removal depends on.

    Args:
        cluster: where the installation is.
        installation: its namespaces.
        own_id: the installation's ID, if the user gives it.

    Raises:
        CommandError: the user lacks permissions in the namespaces.
    """
    both = (installation.namespace, installation.system_namespace)
    namespaces = [each for name in both if (each := cluster.get(Reference("v1", "Namespace", name)))]
    preexisting = preexisting_namespaces(namespaces)
    manifests = installation.manifests()
    if has_dashboard(cluster, installation):
        manifests += installation.dashboard_manifests()
    require_permissions(cluster, _needed_permissions(installation, manifests, preexisting))
    stored = _stored_credentials(cluster, installation)
    given = credentials_in(os.environ)
    e2b_keys = [each.get(Credential.E2B_API_KEY, "") for each in (stored, given)]
    system = next((n for n in namespaces if n["metadata"]["name"] == installation.system_namespace), None)
    deployed, settings = cluster.get(installation.deployment(OPERATOR)), cluster.get(installation.settings)
    return Survey(
        {**given, **stored},
        asyncio.run(_accepted([line for value in e2b_keys for line in keys.lines(value)])),
        own_id or installation_id(deployed, settings, system),
        namespaces,
        preexisting,
        [str(each) for each in _cluster_wide_permissions(manifests) if not cluster.may(each)],
        manifests,
    )


def has_dashboard(cluster: Cluster, installation: Installation) -> bool:
    """Return whether the optional dashboard is installed, or what is left of it."""
    binding = next(e for e in installation.dashboard_manifests() if e["kind"] == "ClusterRoleBinding")
    if cluster.get(installation.deployment(DASHBOARD)) is not None:
        return True
    with suppress(ClusterError):  # without the right to read it, it cannot be removed either
        return cluster.get(Reference.to(binding)) is not None
    return False


def _needed_permissions(
    installation: Installation, manifests: Sequence[Object], preexisting: Collection[str]
) -> list[Permission]:
    """Return what is needed to remove all that is in the installation's namespaces."""
    own = [
        each
        for each in manifests
        if not is_cluster_wide(Reference.to(each))
        and not (each["kind"] == "Namespace" and each["metadata"]["name"] in preexisting)
    ]
    system = installation.system_namespace
    return [
        *permissions_for("delete", own),
        *(Permission(verb, GROUP, PLURAL, installation.namespace) for verb in ("list", "delete", "patch")),
        *(Permission(verb, "", "secrets", system) for verb in ("get", "delete")),
        Permission("delete", "", "configmaps", system),
        Permission("delete", "coordination.k8s.io", "leases", system),
        Permission("list", "", "pods", system),
    ]


def _cluster_wide_permissions(manifests: Sequence[Object]) -> list[Permission]:
    """Return what is needed to remove the rest, which other installations may need too."""
    return [
        *permissions_for("delete", (each for each in manifests if is_cluster_wide(Reference.to(each)))),
        Permission("list", GROUP, PLURAL),
        Permission("list", GROUP, CLASS_PLURAL),
        Permission("list", "apps", "deployments"),
    ]


def _stored_credentials(cluster: Cluster, installation: Installation) -> dict[str, str]:
    stored: dict[str, str] = {}
    for name in keys.SECRETS:
        stored |= keys.values_of(cluster.get(installation.secret(name)))
    return stored


async def _accepted(candidates: Sequence[str]) -> str | None:
    """Return the first key that E2B accepts."""
    for key in candidates:
        if await E2BTeam(key).accepts_key():
            return key
    return None
