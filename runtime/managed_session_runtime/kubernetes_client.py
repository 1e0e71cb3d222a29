"""The connection to the Kubernetes API server."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse

_logger = logging.getLogger(__name__)

DEFAULT_CONNECTIONS = 64
DEFAULT_TIMEOUT_SECONDS = 10.0

_CONNECT_SECONDS = 5.0
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


class KubernetesConfigurationError(Exception):
    """No usable connection is configured; the text says what was looked for."""


class TimeoutApiClient(ApiClient):
    """An ApiClient whose calls have a time limit unless they bring their own.

    The library's default is five minutes. `_request_timeout` of a call may still be a number of seconds for
    the whole call, or an `aiohttp.ClientTimeout`.
    """

    def __init__(self, configuration: Configuration, timeout_seconds: float) -> None:
        super().__init__(configuration)
        self._default_timeout = _timeout(timeout_seconds)

    async def call_api(
        self,
        method: str,
        url: str,
        header_params: dict[str, str] | None = None,
        body: object = None,
        post_params: object = None,
        _request_timeout: float | aiohttp.ClientTimeout | None = None,
        _preload_content: bool = True,
    ) -> RESTResponse:
        """The library's call with the default time limit filled in.

        `method`, `url`, `header_params`, `body` and `post_params` are what `param_serialize` returns.
        """
        limit = self._default_timeout if _request_timeout is None else _request_timeout
        return await super().call_api(
            method,
            url,
            header_params,
            body,
            post_params,
            _request_timeout=limit if isinstance(limit, aiohttp.ClientTimeout) else _timeout(limit),
        )


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, _CONNECT_SECONDS))


async def connect(
    *,
    connections: int = DEFAULT_CONNECTIONS,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    environ: Mapping[str, str] = os.environ,
    user_agent: str = "managed-sessions",
    token_refresh_seconds: float = 60.0,
) -> ApiClient:
    """A client for the API server: KUBECONFIG if set, else the pod's service account, else `~/.kube/config`.

    Tokens are renewed while the client lives: the service account's from its file, a kubeconfig's by reading
    that again (token files and exec plugins included). Close the client when done (it is an async context
    manager).

    Args:
        connections: size of the connection pool.
        timeout_seconds: for each call that brings no limit of its own, waiting for a connection included.
        environ: where KUBECONFIG and the pod's variables are looked up.
        user_agent: what the API server's audit log shows.
        token_refresh_seconds: how old a kubeconfig's token may get. In a pod, the library reads the token
            file every minute.

    Raises:
        KubernetesConfigurationError: nothing is configured, or what is configured cannot be read.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = connections
    configuration.client_session_kwargs = {
        "cookie_jar": aiohttp.DummyCookieJar(),
        "trust_env": any(environ.get(name) or environ.get(name.upper()) for name in _PROXY_VARIABLES),
    }
    home = Path(environ.get("HOME", "/")) / ".kube" / "config"
    try:
        if kubeconfig := environ.get("KUBECONFIG"):
            await _load_kubeconfig(kubeconfig, configuration, token_refresh_seconds)
        elif environ.get("KUBERNETES_SERVICE_HOST"):
            kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        elif home.is_file():
            await _load_kubeconfig(str(home), configuration, token_refresh_seconds)
        else:
            raise KubernetesConfigurationError(
                "no Kubernetes API server is configured: run in a pod with a service account, or set "
                "KUBECONFIG to a kubeconfig file"
            )
    except (kubernetes_config.ConfigException, OSError) as error:
        raise KubernetesConfigurationError(f"the Kubernetes configuration is not usable: {error}") from error
    client = TimeoutApiClient(configuration, timeout_seconds)
    client.user_agent = user_agent
    return client


async def _load_kubeconfig(path: str, configuration: Configuration, refresh_seconds: float) -> None:
    await _read_kubeconfig(path, configuration)
    refresh_at = time.monotonic() + refresh_seconds

    async def refresh(current: Configuration) -> None:
        nonlocal refresh_at
        if time.monotonic() < refresh_at:
            return
        refresh_at = time.monotonic() + refresh_seconds
        fresh = Configuration()
        try:
            await _read_kubeconfig(path, fresh)
        except Exception as error:  # noqa: BLE001 - exec plugins fail in any way; the old token may still do
            _logger.warning("kubeconfig cannot be read again, keeping the token: %s", type(error).__name__)
            return
        current.api_key.update(fresh.api_key)

    configuration.refresh_api_key_hook = refresh  # type: ignore[assignment]


async def _read_kubeconfig(path: str, configuration: Configuration) -> None:
    if not await asyncio.to_thread(Path(path).is_file):
        raise KubernetesConfigurationError(
            f"KUBECONFIG names {path}, which is no file: set it to a kubeconfig file, or unset it in a pod"
        )
    await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=path, client_configuration=configuration, persist_config=False
    )
