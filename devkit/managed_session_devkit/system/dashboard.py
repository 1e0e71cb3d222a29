"""Makes the dashboard's pod for this machine, with the rights of `deploy/dashboard/`."""

import os
from collections.abc import Mapping
from pathlib import Path

from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.control_plane.kubeconfig import redirect_kubeconfig
from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.manifests import install_dashboard
from managed_session_devkit.system.pod import Pod
from managed_session_devkit.system.ports import free_port

DASHBOARD = "managed-session-dashboard"

_PREFIX = "MANAGED_SESSIONS_"


async def dashboard_pod(
    control_plane: ControlPlane,
    namespace: str,
    system_namespace: str,
    folder: Path,
    *,
    settings: Mapping[str, str],
    api_server_url: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Pod, str]:
    """Apply the rights to an installation, and return the dashboard, not started, and the page's address.

    Args:
        control_plane: where the installation is.
        namespace: of the resources.
        system_namespace: of the pods.
        folder: folder for the log and the credentials.
        settings: in lower case, without the prefix.
        api_server_url: URL of a proxy through which the pod reaches the API server.
        environ: environment variables to use.

    Raises:
        KubectlError: the API server refused something.
    """
    await install_dashboard(control_plane, namespace, system_namespace)
    kubeconfig = await control_plane.service_account_kubeconfig(system_namespace, DASHBOARD)
    if api_server_url is not None:
        kubeconfig = redirect_kubeconfig(kubeconfig, api_server_url, folder / "dashboard.kubeconfig")
    port = free_port()
    pod = Pod(
        "dashboard",
        DASHBOARD,
        "managed_session_dashboard.main",
        folder,
        environment={**base_environment(environ), "KUBECONFIG": str(kubeconfig)},
        settings={
            f"{_PREFIX}NAMESPACE": namespace,
            f"{_PREFIX}SYSTEM_NAMESPACE": system_namespace,
            f"{_PREFIX}DASHBOARD_HOST": "127.0.0.1",
            f"{_PREFIX}DASHBOARD_PORT": str(port),
        },
        probe_port=free_port(),
    )
    pod.change_settings(**settings)
    return pod, f"http://127.0.0.1:{port}/"
