"""The manifests of `deploy/`, for the local control plane."""

import json
from pathlib import Path
from typing import Any

import yaml
from managed_session_api.names import RESOURCE_NAMESPACE, SYSTEM_NAMESPACE

DEFINITION_KIND = "CustomResourceDefinition"
_ABOUT_PODS = ("Deployment", "PodDisruptionBudget")


def deploy_folder() -> Path:
    """Where `deploy/` is: in the installed package, or beside it in a source tree.

    Raises:
        FileNotFoundError: in neither place.
    """
    here = Path(__file__).parent
    for folder in (here / "manifests" / "deploy", here.parents[1] / "deploy"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the manifests (deploy/) are missing: install managed-sessions again")


def load_manifests(
    namespace: str = RESOURCE_NAMESPACE, system_namespace: str = SYSTEM_NAMESPACE, *, pods: bool = True
) -> list[dict[str, Any]]:
    """Every object of `deploy/`, moved to these two namespaces.

    Args:
        namespace: the resources' namespace.
        system_namespace: the pods' namespace.
        pods: with the Deployments and PodDisruptionBudgets, which do nothing on a control plane without
            controllers.
    """
    moved = {RESOURCE_NAMESPACE: namespace, SYSTEM_NAMESPACE: system_namespace}
    objects: list[dict[str, Any]] = []
    for path in sorted(deploy_folder().glob("*.yaml")):
        objects += filter(None, yaml.load_all(path.read_bytes(), Loader=_LOADER))
    objects = [each for each in objects if pods or each["kind"] not in _ABOUT_PODS]
    return [_moved(each, moved) for each in objects]


def as_list(objects: list[dict[str, Any]]) -> str:
    """The objects as one `List`, in JSON, for `kubectl apply --filename=-`."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


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
