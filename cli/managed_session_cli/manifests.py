"""Loads the manifests of `deploy/`, for the namespaces of one installation."""

from pathlib import Path
from typing import Any

import yaml
from managed_session_api.names import RESOURCE_NAMESPACE, SYSTEM_NAMESPACE

_ABOUT_PODS = ("Deployment", "PodDisruptionBudget", "NetworkPolicy")
DELETION_GUARD = "managed-sessions-deletion-guard"
"""The admission policy and its binding, which protect only an installation in the default namespaces."""


def deploy_folder() -> Path:
    """Return the folder `deploy/`, from the installed package or the source tree.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    here = Path(__file__).parent
    for folder in (here / "data" / "deploy", here.parents[1] / "deploy"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the manifests (deploy/) are missing. Reinstall managed-sessions.")


def load_manifests(
    namespace: str = RESOURCE_NAMESPACE,
    system_namespace: str = SYSTEM_NAMESPACE,
    *,
    pods: bool = True,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Return every object of `deploy/`, moved to these two namespaces.

    The guard against deletion in the wrong order knows the default namespaces only, and is left out for
    others.

    Args:
        namespace: of the resources.
        system_namespace: of the pods.
        pods: include Deployments, PodDisruptionBudgets and NetworkPolicies, which do nothing on a control
            plane without controllers.
        folder: the folder `deploy/` of another version.
    """
    moved = {RESOURCE_NAMESPACE: namespace, SYSTEM_NAMESPACE: system_namespace}
    objects: list[dict[str, Any]] = []
    for path in sorted((folder or deploy_folder()).glob("*.yaml")):
        objects += filter(None, yaml.load_all(path.read_bytes(), Loader=_LOADER))
    usual = all(name == usual_name for usual_name, name in moved.items())
    return [
        _moved(each, moved)
        for each in objects
        if (pods or each["kind"] not in _ABOUT_PODS) and (usual or each["metadata"]["name"] != DELETION_GUARD)
    ]


def load_dashboard_manifests(
    namespace: str = RESOURCE_NAMESPACE, system_namespace: str = SYSTEM_NAMESPACE, *, pods: bool = True
) -> list[dict[str, Any]]:
    """Return every object of `deploy/dashboard/`, moved to these two namespaces (arguments as above).

    Its cluster-wide rights are bound under another name there, so that several installations can have them.
    """
    moved = {RESOURCE_NAMESPACE: namespace, SYSTEM_NAMESPACE: system_namespace}
    objects = [
        _moved(each, moved)
        for path in sorted((deploy_folder() / "dashboard").glob("*.yaml"))
        for each in yaml.load_all(path.read_bytes(), Loader=_LOADER)
        if pods or each["kind"] not in _ABOUT_PODS
    ]
    for each in objects:
        if each["kind"] == "ClusterRoleBinding" and system_namespace != SYSTEM_NAMESPACE:
            each["metadata"]["name"] += f"-{system_namespace}"
    return objects


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser in C is ten times faster on the CustomResourceDefinition."""


def _moved(manifest: dict[str, Any], moved: dict[str, str]) -> dict[str, Any]:
    metadata = manifest["metadata"]
    if manifest["kind"] == "Namespace":
        metadata["name"] = moved.get(metadata["name"], metadata["name"])
    for holder in (metadata, *manifest.get("subjects", ())):
        if "namespace" in holder:
            holder["namespace"] = moved.get(holder["namespace"], holder["namespace"])
    for rule in manifest.get("rules", ()) if manifest["kind"] == "Role" else ():
        if rule["resources"] == ["namespaces"]:
            rule["resourceNames"] = [moved.get(name, name) for name in rule["resourceNames"]]
    return manifest
