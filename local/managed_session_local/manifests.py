"""The installation on a local control plane: the manifests of `deploy/`, and the user's kubeconfig."""

import json
from pathlib import Path
from typing import Any

import yaml
from managed_session_api.names import GROUP, PLURAL, RESOURCE_NAMESPACE, SYSTEM_NAMESPACE

from managed_session_local.control_plane import ControlPlane
from managed_session_local.pod import write_private
from managed_session_local.side_by_side import side_by_side

_FIRST = ("Namespace", "CustomResourceDefinition")
_ABOUT_PODS = ("Deployment", "PodDisruptionBudget", "NetworkPolicy")
DELETION_GUARD = "managed-sessions-deletion-guard"
"""Admission policy and binding of the installation in the usual namespaces alone."""


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

    The guard against deletion in the wrong order is about the usual namespaces, and stays out of others.

    Args:
        namespace: the resources' namespace.
        system_namespace: the pods' namespace.
        pods: with what is about pods (Deployments, PodDisruptionBudgets, NetworkPolicies), which does nothing
            on a control plane without controllers.
    """
    moved = {RESOURCE_NAMESPACE: namespace, SYSTEM_NAMESPACE: system_namespace}
    objects: list[dict[str, Any]] = []
    for path in sorted(deploy_folder().glob("*.yaml")):
        objects += filter(None, yaml.load_all(path.read_bytes(), Loader=_LOADER))
    usual = all(name == usual_name for usual_name, name in moved.items())
    return [
        _moved(each, moved)
        for each in objects
        if (pods or each["kind"] not in _ABOUT_PODS) and (usual or each["metadata"]["name"] != DELETION_GUARD)
    ]


async def install(control_plane: ControlPlane, namespace: str, system_namespace: str) -> None:
    """Apply `deploy/`, moved to these namespaces; other namespaces than the usual ones get no Deployments.

    Raises:
        KubectlError: the API server refused something.
    """
    usual = (namespace, system_namespace) == (RESOURCE_NAMESPACE, SYSTEM_NAMESPACE)
    manifests = load_manifests(namespace, system_namespace, pods=usual)
    first = [each for each in manifests if each["kind"] in _FIRST]
    await _apply(control_plane, first)
    await side_by_side(
        _apply(control_plane, [each for each in manifests if each not in first]),
        control_plane.kubectl(
            "wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=30s"
        ),
    )


async def _apply(control_plane: ControlPlane, objects: list[dict[str, Any]]) -> None:
    # Client-side validation would download the whole OpenAPI document; the server validates anyway.
    await control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--validate=false", "--filename=-",
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )  # fmt: skip


def write_kubeconfig(control_plane: ControlPlane, namespace: str, path: Path) -> None:
    """Write the administrator's kubeconfig with `namespace` as the one that commands use by themselves."""
    config = json.loads(control_plane.kubeconfig.read_text())
    for context in config["contexts"]:
        context["context"]["namespace"] = namespace
    write_private(path, json.dumps(config, indent=2))


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
