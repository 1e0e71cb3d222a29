"""What there is to remove, and whether the user may: read before anything is removed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from managed_session_cli import keys
from managed_session_cli.clouds import E2BTeam
from managed_session_cli.cluster import Access, Cluster, Object, Reference
from managed_session_cli.errors import CommandError
from managed_session_cli.installation import OPERATOR, Installation, accesses, installation_id
from managed_session_cli.removal import given_namespaces, is_cluster_wide


@dataclass(frozen=True)
class Found:
    """What there is to remove, read before anything is removed.

    Attributes:
        credentials: of the cluster's Secrets, completed by the environment's.
        e2b_key: one that E2B accepts, from either place; None where there is none.
        installation: what marks the sandboxes; None where that can't be known.
        namespaces: those of the installation's two that are there.
        given: names of those among them that no installation has made, and which stay.
        refused: rights that the removal of what is cluster-wide needs and the user lacks.
    """

    credentials: dict[str, str]
    e2b_key: str | None
    installation: str | None
    namespaces: list[Object]
    given: set[str]
    refused: list[str]


def look(cluster: Cluster, installation: Installation, own_id: str | None) -> Found:
    """Read all that a removal needs to know; `own_id` is the installation's ID where the user gives it.

    Raises:
        CommandError: the user lacks rights in the namespaces.
    """
    both = (installation.namespace, installation.system_namespace)
    namespaces = [each for name in both if (each := _namespace(cluster, name))]
    given_by_others = given_namespaces(namespaces)
    manifests = installation.manifests()
    own = [
        each
        for each in manifests
        if not is_cluster_wide(Reference.to(each))
        and not (each["kind"] == "Namespace" and each["metadata"]["name"] in given_by_others)
    ]
    needed = [
        *accesses("delete", own),
        *(
            Access(verb, "managedagents.dev", "managedsessions", installation.namespace)
            for verb in ("list", "delete", "patch")
        ),
        *(Access(verb, "", "secrets", installation.system_namespace) for verb in ("get", "delete")),
        Access("delete", "", "configmaps", installation.system_namespace),
        Access("delete", "coordination.k8s.io", "leases", installation.system_namespace),
        Access("list", "", "pods", installation.system_namespace),
    ]
    if lacking := [str(each) for each in needed if not cluster.may(each)]:
        raise CommandError("this kubeconfig's user lacks rights: " + "; ".join(lacking))
    wide = [
        *accesses("delete", (each for each in manifests if is_cluster_wide(Reference.to(each)))),
        Access("list", "managedagents.dev", "managedsessions"),
        Access("list", "apps", "deployments"),
    ]
    given = keys.from_environment(os.environ)
    stored: dict[str, str] = {}
    for name in keys.SECRETS:
        stored |= keys.values_of(cluster.get(installation.secret(name)))
    system = next((n for n in namespaces if n["metadata"]["name"] == installation.system_namespace), None)
    operator = cluster.get(installation.deployment(OPERATOR))
    settings = cluster.get(installation.settings)
    candidates = [line for each in (stored, given) for line in keys.lines(each.get(keys.E2B_API_KEY, ""))]
    return Found(
        {**given, **stored},
        asyncio.run(_accepted(candidates)),
        own_id or installation_id(operator, settings, system),
        namespaces,
        given_by_others,
        [str(each) for each in wide if not cluster.may(each)],
    )


def _namespace(cluster: Cluster, name: str) -> Object | None:
    return cluster.get(Reference("v1", "Namespace", name))


async def _accepted(candidates: Sequence[str]) -> str | None:
    """The first key that E2B accepts."""
    for key in candidates:
        if await E2BTeam(key).accepts_key():
            return key
    return None
