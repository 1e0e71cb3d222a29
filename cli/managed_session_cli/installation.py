"""Describes the parts of an installation: the objects of `deploy/`, its credentials and its identity."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from managed_session_api.names import (
    CLASS_PLURAL,
    GROUP,
    PLURAL,
    RESOURCE_NAMESPACE,
    SHARED_PLURAL,
    SYSTEM_NAMESPACE,
)

from managed_session_cli.cluster import Cluster, Object, Permission, Reference
from managed_session_cli.errors import CommandError
from managed_session_cli.manifests import load_dashboard_manifests, load_manifests

OPERATOR = "managed-session-operator"
WEBHOOK = "managed-session-webhook"
DASHBOARD = "managed-session-dashboard"
"""Names of the Deployments, ServiceAccounts and Secrets; OPERATOR also of the Lease and the ConfigMap. The
dashboard is optional."""

PART_OF = {"app.kubernetes.io/part-of": "managed-sessions"}
CRDS = tuple(
    Reference("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.{GROUP}")
    for plural in (PLURAL, CLASS_PLURAL, SHARED_PLURAL)
)
"""The definitions of all kinds."""

_INSTALLATION_ID = "MANAGED_SESSIONS_INSTALLATION_ID"
_NAMESPACE = "MANAGED_SESSIONS_NAMESPACE"
_TEMPLATE = "MANAGED_SESSIONS_TEMPLATE"


@dataclass(frozen=True)
class Installation:
    """The namespaces of an installation.

    Attributes:
        namespace: of the resources.
        system_namespace: of the pods.
    """

    namespace: str = RESOURCE_NAMESPACE
    system_namespace: str = SYSTEM_NAMESPACE

    def manifests(self, image: str | None = None) -> list[Object]:
        """Return every object of `deploy/`, in the order of their application, with `image` in the pods."""
        objects = load_manifests(self.namespace, self.system_namespace)
        return [self._adapted(each, image) for each in objects]

    def dashboard_manifests(self, image: str | None = None) -> list[Object]:
        """Return every object of `deploy/dashboard/`, as `manifests` does."""
        objects = load_dashboard_manifests(self.namespace, self.system_namespace)
        return [self._adapted(each, image) for each in objects]

    def deployment(self, name: str) -> Reference:
        """Return the reference to the Deployment of that name."""
        return Reference("apps/v1", "Deployment", name, self.system_namespace)

    def secret(self, name: str) -> Reference:
        """Return the reference to the Secret with the credentials of the process of that name."""
        return Reference("v1", "Secret", name, self.system_namespace)

    @property
    def settings(self) -> Reference:
        """The ConfigMap with the operator's settings, which a user may create."""
        return Reference("v1", "ConfigMap", OPERATOR, self.system_namespace)

    @property
    def lease(self) -> Reference:
        """The operator's Lease, whose holder leads."""
        return Reference("coordination.k8s.io/v1", "Lease", OPERATOR, self.system_namespace)

    def _adapted(self, manifest: Object, image: str | None) -> Object:
        if manifest["kind"] != "Deployment":
            return manifest
        adapted = copy.deepcopy(manifest)
        pod = adapted["spec"]["template"]["spec"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            if image is not None:
                container["image"] = image
            if self.namespace != RESOURCE_NAMESPACE:
                others = [each for each in container.get("env", []) if each["name"] != _NAMESPACE]
                container["env"] = [*others, {"name": _NAMESPACE, "value": self.namespace}]
        return adapted


def setting(name: str, deployment: Object | None, settings: Object | None) -> str | None:
    """Return a setting of the operator, from its Deployment or else from its ConfigMap."""
    containers = deployment["spec"]["template"]["spec"]["containers"] if deployment else []
    for container in containers:
        for variable in container.get("env", []):
            if variable["name"] == name and variable.get("value"):
                return str(variable["value"])
    value = ((settings or {}).get("data") or {}).get(name)
    return str(value) if value else None


def installation_id(
    operator: Object | None, settings: Object | None, system_namespace: Object | None
) -> str | None:
    """Return the ID in the sandboxes' metadata: the operator's setting, or else its namespace's UID."""
    configured = setting(_INSTALLATION_ID, operator, settings)
    if configured or system_namespace is None:
        return configured
    return str(system_namespace["metadata"]["uid"])


def template_setting(operator: Object | None, settings: Object | None) -> str | None:
    """Return the template that the operator is set to use; None for the version's own."""
    return setting(_TEMPLATE, operator, settings)


def crds_of(manifests: Iterable[Object]) -> list[Object]:
    """Return the CRDs among the manifests of an installation."""
    return [each for each in manifests if Reference.to(each) in CRDS]


def permissions_for(verb: str, manifests: Iterable[Object]) -> list[Permission]:
    """Return the permissions to use this verb on these objects; to apply them is `patch`."""
    wanted = {
        Permission(
            verb, _group(each["apiVersion"]), _plural(each["kind"]), each["metadata"].get("namespace", "")
        )
        for each in manifests
    }
    return sorted(wanted, key=str)


def require_permissions(cluster: Cluster, permissions: Iterable[Permission]) -> None:
    """Check that the kubeconfig's user has all of these permissions.

    Raises:
        CommandError: some are missing; the text names them.
    """
    if missing := [str(each) for each in permissions if not cluster.may(each)]:
        raise CommandError(
            f"the kubeconfig's user lacks permissions: {'; '.join(missing)}. Ask a cluster administrator."
        )


def _group(api_version: str) -> str:
    return api_version.partition("/")[0] if "/" in api_version else ""


def _plural(kind: str) -> str:
    """Return the resource name of a built-in kind; their plurals are regular."""
    lower = kind.lower()
    if lower.endswith("y"):
        return lower[:-1] + "ies"
    return lower + ("es" if lower.endswith(("s", "x")) else "s")
