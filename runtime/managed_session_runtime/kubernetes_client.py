"""Connects to the Kubernetes API server."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse

from managed_session_runtime.api_server_connection import ApiServerRest

logger = logging.getLogger(__name__)

DEFAULT_CONNECTIONS = 64
DEFAULT_TIMEOUT_SECONDS = 10.0

_CONNECT_SECONDS = 5.0
_TOKEN_SECONDS = 60.0


class KubernetesConfigurationError(Exception):
    """No usable connection is configured. The text says what was tried."""


class TimeoutApiClient(ApiClient):
    """An ApiClient with a default timeout of its own; the library's is five minutes.

    A call can still set `_request_timeout`: a number of seconds for the whole call, or an
    `aiohttp.ClientTimeout`.
    """

    def __init__(self, configuration: Configuration, timeout_seconds: float) -> None:
        super().__init__(configuration)
        self.rest_client = ApiServerRest(configuration)
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
        """Call the API server, by default with the client's timeout.

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
    token_refresh_seconds: float = _TOKEN_SECONDS,
    proxy_url: str | None = None,
) -> ApiClient:
    """Connect with KUBECONFIG if set, else the pod's service account, else `~/.kube/config`.

    Tokens are renewed while the client is open: the service account's from its file, a kubeconfig's by
    reading the kubeconfig again (including token files and exec plugins). The caller has to close the
    client, which is an async context manager.

    Args:
        connections: size of the connection pool.
        timeout_seconds: default timeout of a call, including the wait for a connection.
        environ: variables to read KUBECONFIG and the pod's variables from.
        user_agent: name in the API server's audit log.
        token_refresh_seconds: maximum age of a kubeconfig's token. In a pod, the library reads the token
            file every minute.
        proxy_url: proxy for the API server, unless a kubeconfig names one. The usual proxy variables are
            ignored.

    Raises:
        KubernetesConfigurationError: no configuration exists, or it cannot be read.
    """
    configuration = await _configuration(environ, token_refresh_seconds, proxy_url)
    configuration.connection_pool_maxsize = connections
    client = TimeoutApiClient(configuration, timeout_seconds)
    client.user_agent = user_agent
    return client


@dataclass(frozen=True)
class ApiServerSession:
    """An authenticated HTTP session, for a library that has its own client.

    Attributes:
        url: URL of the API server.
        session: the session. Its owner has to close it.
    """

    url: str
    session: aiohttp.ClientSession


async def open_session(
    *,
    environ: Mapping[str, str] = os.environ,
    proxy_url: str | None = None,
    response_class: type[aiohttp.ClientResponse] = aiohttp.ClientResponse,
) -> ApiServerSession:
    """Connect as `connect` does, with the same arguments and errors, but return a bare HTTP session.

    Its responses are of `response_class`.
    """
    configuration = await _configuration(environ, _TOKEN_SECONDS, proxy_url)
    # Long streams must not use up the connections of calls.
    configuration.connection_pool_maxsize = 0
    session = ApiServerRest(configuration, bearer=True).open_session(response_class)
    return ApiServerSession(url=str(configuration.host), session=session)


async def _configuration(
    environ: Mapping[str, str], token_refresh_seconds: float, proxy_url: str | None
) -> Configuration:
    configuration = Configuration()
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
        raise KubernetesConfigurationError(f"the Kubernetes configuration is invalid: {error}") from error
    configuration.proxy = configuration.proxy or proxy_url
    return configuration


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
        except Exception as error:  # noqa: BLE001 - exec plugins fail in many ways; the old token may still work
            logger.warning(
                "cannot reload the kubeconfig, keeping the current token: %s", type(error).__name__
            )
            return
        current.api_key.update(fresh.api_key)

    configuration.refresh_api_key_hook = refresh  # type: ignore[assignment]


async def _read_kubeconfig(path: str, configuration: Configuration) -> None:
    if not await asyncio.to_thread(Path(path).is_file):
        raise KubernetesConfigurationError(
            f"KUBECONFIG is {path}, which is not a file: set it to a kubeconfig file, or unset it in a pod"
        )
    await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=path, client_configuration=configuration, persist_config=False
    )
