"""Makes webhook and operator pods for this machine, with their rights, credentials and settings."""

from collections.abc import Mapping
from pathlib import Path

from managed_session_api.credentials import OPERATOR_CREDENTIALS, WEBHOOK_CREDENTIALS

from managed_session_devkit.control_plane.kubeconfig import redirect_kubeconfig
from managed_session_devkit.system.clouds import Clouds
from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.fork_server import ForkServer
from managed_session_devkit.system.pod import Pod
from managed_session_devkit.system.ports import free_port
from managed_session_devkit.system.source_tree import SourceTree

WEBHOOK = "managed-session-webhook"
OPERATOR = "managed-session-operator"

_PREFIX = "MANAGED_SESSIONS_"
_PORT = f"{_PREFIX}WEBHOOK_PORT"


class Pods:
    """Makes the pods of one system.

    Args:
        folder: folder for their logs and credentials.
        clouds: clouds that they use.
        namespace: namespace of the resources.
        system_namespace: namespace of the pods.
        installation_id: marks the sandboxes.
        environ: the user's environment variables. Those named `MANAGED_SESSIONS_…` are passed on, and those
            named `OTEL_…` to the operators.
        api_server_urls: by pod name, a URL of the API server that replaces the kubeconfig's.
        fork_server: forks the processes.
        version: another version, whose code the pods run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clouds: Clouds,
        namespace: str,
        system_namespace: str,
        installation_id: str,
        environ: Mapping[str, str],
        api_server_urls: Mapping[str, str],
        fork_server: ForkServer | None = None,
        version: SourceTree | None = None,
    ) -> None:
        self._folder = folder
        self._fork_server = fork_server
        self._version = version
        self._api_server_urls = api_server_urls
        self._clouds = clouds
        self._namespaces = {
            f"{_PREFIX}NAMESPACE": namespace,
            f"{_PREFIX}SYSTEM_NAMESPACE": system_namespace,
        }
        self._installation_id = installation_id
        self._environment = base_environment(environ)
        self._settings = {name: value for name, value in environ.items() if name.startswith(_PREFIX)}
        self._telemetry = {name: value for name, value in environ.items() if name.startswith("OTEL_")}
        self._operators = self._webhooks = 0

    def webhook(self, kubeconfig: Path, settings: Mapping[str, str]) -> tuple[Pod, str]:
        """Return another webhook, not started, and its URL. `settings`: in lower case, without the prefix."""
        self._webhooks += 1
        name = "webhook" if self._webhooks == 1 else f"webhook-{self._webhooks}"
        own = {
            f"{_PREFIX}WEBHOOK_HOST": "127.0.0.1",
            f"{_PREFIX}WEBHOOK_READINESS_INTERVAL_SECONDS": "0.5",
            **self._settings,
            **self._namespaces,
        }
        port = own.get(_PORT, "0")
        if port == "0" or self._webhooks > 1:
            # Chosen here, so that it is known before the start and stays after a restart.
            port = str(free_port())
        pod = Pod(
            name,
            WEBHOOK,
            "managed_session_webhook.main",
            self._folder,
            environment={**self._environment, "KUBECONFIG": str(self._kubeconfig(name, kubeconfig))},
            settings={**own, _PORT: port},
            probe_port=free_port(),
            fork_server=self._fork_server,
        )
        pod.change_version(self._version)
        pod.change_settings(**settings)
        for name, value in self._clouds.only(WEBHOOK_CREDENTIALS).items():
            pod.set_credential(name, value)
        return pod, f"http://127.0.0.1:{port}/webhook"

    def operator(self, kubeconfig: Path, settings: Mapping[str, str]) -> Pod:
        """Return another operator, not started. `settings`: in lower case, without the prefix."""
        self._operators += 1
        name = f"operator-{self._operators}"
        pod = Pod(
            name,
            OPERATOR,
            "managed_session_operator.main",
            self._folder,
            environment={
                **self._environment,
                **self._telemetry,
                **self._clouds.environment,
                "KUBECONFIG": str(self._kubeconfig(name, kubeconfig)),
            },
            settings={
                **self._settings,
                **self._namespaces,
                f"{_PREFIX}INSTALLATION_ID": self._installation_id,
                f"{_PREFIX}SKILL_CACHE_FOLDER": str(self._folder / f"{name}-skills"),
            },
            probe_port=free_port(),
            fork_server=self._fork_server,
        )
        pod.change_version(self._version)
        pod.change_settings(**settings)
        for name, value in self._clouds.only(OPERATOR_CREDENTIALS).items():
            pod.set_credential(name, value)
        return pod

    def _kubeconfig(self, name: str, kubeconfig: Path) -> Path:
        """Return the given kubeconfig, or a copy with the pod's own URL of the API server."""
        url = self._api_server_urls.get(name)
        return (
            kubeconfig
            if url is None
            else redirect_kubeconfig(kubeconfig, url, self._folder / f"{name}.kubeconfig")
        )
