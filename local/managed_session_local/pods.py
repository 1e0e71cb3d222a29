"""The webhook's and the operator's pods on this machine: who gets which rights, credentials and settings."""

from collections.abc import Mapping
from pathlib import Path

from managed_session_local.clouds import OPERATOR_CREDENTIALS, WEBHOOK_CREDENTIALS, Clouds
from managed_session_local.control_plane.kubeconfig import redirect_kubeconfig
from managed_session_local.pod import Pod, base_environment
from managed_session_local.ports import free_port

WEBHOOK = "managed-session-webhook"
OPERATOR = "managed-session-operator"

_PREFIX = "MANAGED_SESSIONS_"
_PORT = f"{_PREFIX}WEBHOOK_PORT"


class Pods:
    """Makes the pods of one system.

    Args:
        folder: holds their logs and credentials.
        clouds: what they talk to.
        namespace: of the resources.
        system_namespace: of the pods.
        installation_id: marks the sandboxes.
        environ: the user's environment; its `MANAGED_SESSIONS_…` variables are passed on.
        api_server_urls: by pod name, where a pod reaches the API server by another way than its kubeconfig's.
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
    ) -> None:
        self._folder = folder
        self._api_server_urls = api_server_urls
        self._clouds = clouds
        self._namespaces = {
            f"{_PREFIX}NAMESPACE": namespace,
            f"{_PREFIX}SYSTEM_NAMESPACE": system_namespace,
        }
        self._installation_id = installation_id
        self._environment = base_environment(environ)
        self._settings = {name: value for name, value in environ.items() if name.startswith(_PREFIX)}
        self._operators = self._webhooks = 0

    def webhook(self, kubeconfig: Path, settings: Mapping[str, str]) -> tuple[Pod, str]:
        """One more webhook, yet to be started, and its URL; `settings` in lower case without the prefix."""
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
            # Known before the start, and the same after a restart.
            port = str(free_port())
        pod = Pod(
            name,
            WEBHOOK,
            "managed_session_webhook.main",
            self._folder,
            environment={**self._environment, "KUBECONFIG": str(self._kubeconfig(name, kubeconfig))},
            settings={**own, _PORT: port},
            probe_port=free_port(),
        )
        pod.change_settings(**settings)
        for name, value in self._clouds.only(WEBHOOK_CREDENTIALS).items():
            pod.set_credential(name, value)
        return pod, f"http://127.0.0.1:{port}/webhook"

    def operator(self, kubeconfig: Path, settings: Mapping[str, str]) -> Pod:
        """One more operator, which is yet to be started; `settings` in lower case without the prefix."""
        self._operators += 1
        name = f"operator-{self._operators}"
        pod = Pod(
            name,
            OPERATOR,
            "managed_session_operator.main",
            self._folder,
            environment={
                **self._environment,
                **self._clouds.environment,
                "KUBECONFIG": str(self._kubeconfig(name, kubeconfig)),
            },
            settings={
                **self._settings,
                **self._namespaces,
                f"{_PREFIX}INSTALLATION_ID": self._installation_id,
            },
            probe_port=free_port(),
        )
        pod.change_settings(**settings)
        for name, value in self._clouds.only(OPERATOR_CREDENTIALS).items():
            pod.set_credential(name, value)
        return pod

    def _kubeconfig(self, name: str, kubeconfig: Path) -> Path:
        """The pod's kubeconfig: the given one, or a copy with the pod's own way to the API server."""
        url = self._api_server_urls.get(name)
        return (
            kubeconfig
            if url is None
            else redirect_kubeconfig(kubeconfig, url, self._folder / f"{name}.kubeconfig")
        )
