"""Finds out what in the cluster and in E2B refers to a template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from managed_session_api.names import API_VERSION, CLASS_KIND, CLASS_PLURAL, GROUP, KIND, PLURAL
from managed_session_worker.template import template_name

from managed_session_cli.clouds import Sandbox
from managed_session_cli.cluster import Cluster, Object, Permission, Reference
from managed_session_cli.installation import OPERATOR, require_permissions, template_setting
from managed_session_cli.team_templates import Template

PERMISSIONS = (
    Permission("list", GROUP, PLURAL),
    Permission("list", GROUP, CLASS_PLURAL),
    Permission("list", "apps", "deployments"),
    Permission("get", "", "configmaps"),
)
"""Needed in all namespaces, because the installations of a cluster may share an E2B team."""


@dataclass(frozen=True)
class ClusterReferences:
    """What a cluster refers to.

    Attributes:
        names: (template, who names it), for every template that a setting, class or session names.
        sandboxes: IDs of the sessions' sandboxes.
    """

    names: tuple[tuple[str, str], ...]
    sandboxes: frozenset[str]

    def to(self, template: Template) -> list[str]:
        """Return who names this template, each once."""
        return list(dict.fromkeys(who for name, who in self.names if template.is_named(name)))


def cluster_references(cluster: Cluster) -> ClusterReferences:
    """Read everything in the cluster that names a template.

    Raises:
        CommandError: the user may not read all of it, or the API server did not answer.
    """
    require_permissions(cluster, PERMISSIONS)
    sessions = cluster.list(API_VERSION, KIND)
    names = [
        *_settings(cluster),
        *(named for each in cluster.list(API_VERSION, CLASS_KIND) for named in _of_class(each)),
        *(named for each in sessions for named in _of_session(each)),
    ]
    ids = {each.get("status", {}).get("sandbox", {}).get("id") for each in sessions}
    return ClusterReferences(tuple(names), frozenset(each for each in ids if each))


def _settings(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield the default templates: this version's, and those of the cluster's operators."""
    yield template_name(), "this version"
    for deployment in cluster.list("apps/v1", "Deployment", labels={"app.kubernetes.io/name": OPERATOR}):
        namespace = deployment["metadata"]["namespace"]
        settings = cluster.get(Reference("v1", "ConfigMap", OPERATOR, namespace))
        if name := template_setting(deployment, settings):
            yield name, f"setting in {namespace}"


def _of_class(resource: Object) -> Iterator[tuple[str, str]]:
    name = resource["spec"].get("session", {}).get("sandbox", {}).get("template")
    if name:
        yield name, f"class {resource['metadata']['name']}"


def _of_session(resource: Object) -> Iterator[tuple[str, str]]:
    status = resource.get("status", {})
    for name in (
        resource["spec"].get("sandbox", {}).get("template"),
        status.get("effective", {}).get("template"),
        status.get("sandbox", {}).get("templateID"),
    ):
        if name:
            yield name, f"session {resource['metadata']['name']}"


def used_by(template: Template, sandboxes: Sequence[Sandbox]) -> list[Sandbox]:
    """Return the sandboxes that were created from a template."""
    return [each for each in sandboxes if each.template_id == template.template_id]
