"""What an installation is made of: the objects of `deploy/`, its credentials and its identity."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from managed_session_api.names import GROUP, PLURAL, RESOURCE_NAMESPACE, SYSTEM_NAMESPACE
from managed_session_local.manifests import load_manifests

from managed_session_cli.cluster import Access, Object, Reference

OPERATOR = "managed-session-operator"
WEBHOOK = "managed-session-webhook"
"""Names of the Deployments, ServiceAccounts and credential Secrets; the operator's also of its Lease."""

PART_OF = {"app.kubernetes.io/part-of": "managed-sessions"}
DEFINITION = Reference("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{PLURAL}.{GROUP}")

_INSTALLATION_ID = "MANAGED_SESSIONS_INSTALLATION_ID"
_NAMESPACE = "MANAGED_SESSIONS_NAMESPACE"
_TEMPLATE = "MANAGED_SESSIONS_TEMPLATE"


@dataclass(frozen=True)
class Installation:
    """Where an installation is.

    Attributes:
        namespace: of the resources.
        system_namespace: of the pods.
    """

    namespace: str = RESOURCE_NAMESPACE
    system_namespace: str = SYSTEM_NAMESPACE

    def manifests(self, image: str | None = None) -> list[Object]:
        """Every object of `deploy/` in the order in which they are applied, with `image` in the pods."""
        objects = load_manifests(self.namespace, self.system_namespace)
        return [self._adapted(each, image) for each in objects]

    def deployment(self, name: str) -> Reference:
        """The Deployment of that name."""
        return Reference("apps/v1", "Deployment", name, self.system_namespace)

    def secret(self, name: str) -> Reference:
        """The Secret with the credentials of the process of that name."""
        return Reference("v1", "Secret", name, self.system_namespace)

    @property
    def settings(self) -> Reference:
        """The ConfigMap with the operator's settings, which a user may make."""
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
    """A setting of the operator: spelled out in its Deployment, or else in its ConfigMap."""
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
    """What marks the installation's sandboxes: the operator's setting, or else its namespace's UID."""
    configured = setting(_INSTALLATION_ID, operator, settings)
    if configured or system_namespace is None:
        return configured
    return str(system_namespace["metadata"]["uid"])


def template_setting(operator: Object | None, settings: Object | None) -> str | None:
    """The template that the operator is told to use; None for the version's own."""
    return setting(_TEMPLATE, operator, settings)


def definition_of(manifests: Iterable[Object]) -> Object:
    """The CustomResourceDefinition among the manifests of an installation."""
    return next(each for each in manifests if Reference.to(each) == DEFINITION)


def accesses(verb: str, manifests: Iterable[Object]) -> list[Access]:
    """The rights that this verb needs on these objects; to apply them is `patch`."""
    wanted = {
        Access(verb, _group(each["apiVersion"]), _plural(each["kind"]), each["metadata"].get("namespace", ""))
        for each in manifests
    }
    return sorted(wanted, key=str)


def _group(api_version: str) -> str:
    return api_version.partition("/")[0] if "/" in api_version else ""


def _plural(kind: str) -> str:
    """The resource of a built-in kind; their plurals are regular."""
    lower = kind.lower()
    if lower.endswith("y"):
        return lower[:-1] + "ies"
    return lower + ("es" if lower.endswith(("s", "x")) else "s")
