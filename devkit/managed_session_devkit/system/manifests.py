"""Installs the manifests of `deploy/` on a local control plane, and writes the user's kubeconfig."""

import json
from pathlib import Path
from typing import Any

from managed_session_api.names import RESOURCE_NAMESPACE, SYSTEM_NAMESPACE
from managed_session_cli.manifests import load_dashboard_manifests, load_manifests

from managed_session_devkit.control_plane import ControlPlane, established
from managed_session_devkit.system.gather_or_cancel import gather_or_cancel
from managed_session_devkit.system.pod import write_private
from managed_session_devkit.system.source_tree import SourceTree

_CRD = "CustomResourceDefinition"
_FIRST = ("Namespace", _CRD)


async def install(
    control_plane: ControlPlane,
    namespace: str,
    system_namespace: str,
    *,
    version: SourceTree | None = None,
    keep_crds: bool = False,
) -> None:
    """Apply `deploy/`, moved to these namespaces. Namespaces other than the default ones get no Deployments.

    Args:
        control_plane: where to apply it.
        namespace: of the resources.
        system_namespace: of the pods.
        version: another version, whose manifests to apply. Default: this one.
        keep_crds: leave the CRDs as they are.

    Raises:
        KubectlError: the API server refused something.
    """
    usual = (namespace, system_namespace) == (RESOURCE_NAMESPACE, SYSTEM_NAMESPACE)
    folder = version.manifests if version is not None else None
    manifests = load_manifests(namespace, system_namespace, pods=usual, folder=folder)
    manifests = [each for each in manifests if each["kind"] != _CRD or not keep_crds]
    first = [each for each in manifests if each["kind"] in _FIRST]
    await _apply(control_plane, first)
    await gather_or_cancel(
        _apply(control_plane, [each for each in manifests if each not in first]),
        established(
            control_plane.kubectl, *(each["metadata"]["name"] for each in first if each["kind"] == _CRD)
        ),
    )


async def install_dashboard(control_plane: ControlPlane, namespace: str, system_namespace: str) -> None:
    """Apply the rights of `deploy/dashboard/`, moved to these namespaces (raises as `install`)."""
    await _apply(control_plane, load_dashboard_manifests(namespace, system_namespace, pods=False))


async def _apply(control_plane: ControlPlane, objects: list[dict[str, Any]]) -> None:
    # The server validates too. Client-side validation would download the whole OpenAPI document.
    await control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--validate=false", "--filename=-",
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )  # fmt: skip


def write_kubeconfig(control_plane: ControlPlane, namespace: str, path: Path) -> None:
    """Write the administrator's kubeconfig with `namespace` as the default namespace."""
    config = json.loads(control_plane.kubeconfig.read_text())
    for context in config["contexts"]:
        context["context"]["namespace"] = namespace
    write_private(path, json.dumps(config, indent=2))
