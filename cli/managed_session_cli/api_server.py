"""Connects to the API server of a kubeconfig, with the same verification as the operator, and directly."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import RESTResponse
from urllib3.util.ssl_ import create_urllib3_context

PROXY_VARIABLE = "MANAGED_SESSIONS_KUBERNETES_PROXY_URL"
"""Names the proxy to the API server where the kubeconfig has no `proxy-url`, as for the operator."""

PATIENT = (5.0, 30.0)
"""Seconds to connect, and to wait for an answer."""

_LONGEST_MESSAGE = 500


class ApiServerError(Exception):
    """The API server rejected a call, or did not answer.

    Attributes:
        status: the HTTP status of its answer; None where there was none.
        detail: the message of its answer, or why there was none.
    """

    def __init__(self, status: int | None, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class BoundedApiClient(ApiClient):
    """A client whose calls have a time limit and fail with ApiServerError alone.

    The dynamic client lets this exception pass. It would take the library's own for a 503 to mean that an
    API group has no resources, so that what cannot be listed at the moment would seem not to exist.
    """

    def __init__(self, configuration: Configuration, timeout: tuple[float, float] = PATIENT) -> None:
        super().__init__(configuration)
        self._timeout = timeout

    def call_api(self, *request: Any, **options: Any) -> RESTResponse:
        """Call the API server and read its whole answer.

        Raises:
            ApiServerError: it rejected the call, or did not answer in time.
        """
        try:
            response = super().call_api(*request, **{**options, "_request_timeout": self._timeout})
            content = response.read() or b""  # type: ignore[no-untyped-call]
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiServerError(None, _cause(error)) from None
        if 200 <= response.status < 300:
            return response
        raise ApiServerError(response.status, _message(content))

    def lines(self, *request: Any, silence: float) -> Iterator[bytes]:
        """Yield the lines of an answer as they arrive.

        Args:
            request: as for `call_api`.
            silence: how many seconds may pass without a line.

        Raises:
            ApiServerError: the API server rejected the call, or fell silent.
        """
        timeout: dict[str, Any] = {"_request_timeout": (self._timeout[0], silence)}
        try:
            response = super().call_api(*request, **timeout)
            if not 200 <= response.status < 300:
                content = response.read() or b""  # type: ignore[no-untyped-call]
                raise ApiServerError(response.status, _message(content))
            yield from response.response
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiServerError(None, _cause(error)) from None


def api_client(
    kubeconfig: Path | None,
    context: str | None,
    environ: Mapping[str, str] = os.environ,
    timeout: tuple[float, float] = PATIENT,
) -> BoundedApiClient:
    """Return a client for the API server of a kubeconfig.

    Proxy variables are ignored: the API server is reached directly unless `proxy-url` or PROXY_VARIABLE
    says otherwise.

    Args:
        kubeconfig: file; by default KUBECONFIG or `~/.kube/config`.
        context: of the kubeconfig; by default its current one.
        environ: where PROXY_VARIABLE is looked up.
        timeout: seconds to connect, and to wait for an answer.

    Raises:
        config.ConfigException, OSError, ValueError: the kubeconfig is not usable.
    """
    configuration = Configuration()
    configuration.proxy = environ.get(PROXY_VARIABLE) or None
    configuration.no_proxy = ""
    config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(kubeconfig) if kubeconfig else None,
        context=context,
        client_configuration=configuration,
        persist_config=False,
    )
    client = BoundedApiClient(configuration, timeout)
    # The library has no setting for it.
    client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = _tls(configuration)
    return client


def _tls(configuration: Configuration) -> ssl.SSLContext:
    """Verify chain and host name, but not the extensions that Python 3.13 requires in addition."""
    made = create_urllib3_context()
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.ssl_ca_cert:
        made.load_default_certs()
    return made


def _cause(error: Exception) -> str:
    """Return why there was no answer; urllib3's count of its attempts says nothing about it."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    return f"{type(cause).__name__}: {cause}"[:_LONGEST_MESSAGE]


def _message(content: bytes) -> str:
    """Return the message of a Status object; other answers may be anything, and are not repeated."""
    try:
        return str(json.loads(content).get("message", ""))[:_LONGEST_MESSAGE]
    except (ValueError, AttributeError):
        return ""
