"""Sends the requests of each turn to Anthropic as plain JSON over aiohttp.

The SDK's client builds and parses each request with models, which costs milliseconds. What is sent is the
same: the headers come from the SDK, and a test compares the requests.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from anthropic import AsyncAnthropic
from managed_session_runtime.api_server_connection import guarded_socket
from pydantic_core import from_json, to_json
from yarl import URL

from managed_session_operator.clients.anthropic.wire import answered_error, tls_context, unanswered_error
from managed_session_operator.clients.rotating_key import RotatingKey, is_about_the_key
from managed_session_operator.domain.remote_calls import ANTHROPIC, remote_call

Query = Sequence[tuple[str, str | int]]

_BETA = "managed-agents-2026-04-01"
_CONNECTIONS = 512
_SUCCESS = range(200, 300)
_OWN_HEADERS = ("authorization", "content-type")


def path_of(*parts: str) -> str:
    """Return the path of the API with these parts, each of which is quoted."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


@asynccontextmanager
async def within(seconds: float, operation: str) -> AsyncIterator[None]:
    """Limit the time of several requests together (raises OperationError)."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise unanswered_error(operation, error) from None


class Requests:
    """Requests with the environment key. Belongs to one event loop.

    Args:
        sdk: returns the SDK's client, which knows the base URL and the headers.
        key: the environment key.
        fence: raises NotLeadingError if effects must not be sent. Called again when a connection is ready.
        timeout: timeout of one request in seconds.
    """

    def __init__(
        self, sdk: Callable[[], AsyncAnthropic], key: RotatingKey, fence: Callable[[], None], timeout: float
    ) -> None:
        self._sdk = sdk
        self._key = key
        self._fence = fence
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._base = ""
        self._proxy: str | None = None

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the JSON of its answer; None if the answer is empty.

        Args:
            operation: name of the call, for messages.
            method: HTTP method.
            path: path as `path_of` returns it.
            query: parameters of the query.
            body: JSON of the request.
            headers: further headers.

        Raises:
            OperationError: Anthropic did not answer, or not with success.
            NotLeadingError: this process no longer leads.
            CredentialError: there is no key.
        """
        with remote_call(ANTHROPIC, operation):
            return await self._send(operation, method, path, query, body, headers)

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        query: Query,
        body: Any,
        headers: Mapping[str, str] | None,
    ) -> Any:
        self._fence()
        candidates = self._key.candidates()
        session = self._opened()
        url = self._base + path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        content = to_json(body) if body is not None else None
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if method == "POST" else {})}
        status, answer, retry_after = 0, b"", ""
        for value in candidates:
            sent["Authorization"] = f"Bearer {value.get_secret_value()}"
            try:
                async with (
                    asyncio.timeout(self._timeout),
                    session.request(
                        method, URL(url, encoded=True), headers=sent, data=content, proxy=self._proxy
                    ) as response,
                ):
                    status, answer = response.status, await response.read()
                    retry_after = response.headers.get("retry-after", "")
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                raise unanswered_error(operation, error) from None
            if is_about_the_key(status, path):
                self._key.refused(value)
                continue
            if status < 500:
                self._key.accepted(value)
            break
        found = _parsed(answer)
        if status not in _SUCCESS:
            raise answered_error(operation, status, found, retry_after)
        return found

    async def pages(self, operation: str, path: str, query: Query) -> AsyncIterator[list[Any]]:
        """Yield the items of a list page by page (raises as `call`)."""
        page = ""
        while True:
            answer = await self.call(
                operation, "GET", path, query=[*query, *([("page", page)] if page else [])]
            )
            items, following = field(answer, "data"), field(answer, "next_page")
            yield items if isinstance(items, list) else []
            if not isinstance(following, str) or not following or following == page:
                return
            page = following

    async def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            sdk = self._sdk()
            self._base = str(sdk.base_url).rstrip("/")
            self._proxy = _proxy_for(self._base)
            headers = {name: value for name, value in sdk.default_headers.items() if isinstance(value, str)}
            kept = {name: value for name, value in headers.items() if name.lower() not in _OWN_HEADERS}
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(self._check_fence)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=_CONNECTIONS, ssl=tls_context(), socket_factory=guarded_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={**kept, "anthropic-beta": _BETA},
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                trace_configs=[trace],
            )
        return self._session

    async def _check_fence(self, *_: Any) -> None:
        # Called when the connection is ready, just before the request is written.
        self._fence()


def field(value: Any, name: str) -> Any:
    """Return a field of a JSON object; None if it is absent, or the value is no object."""
    return value.get(name) if isinstance(value, dict) else None


def _parsed(content: bytes) -> Any:
    """Parse an answer; None if it is empty, and its text if it is not JSON, such as a proxy's error page."""
    try:
        return from_json(content, cache_strings="keys") if content.strip() else None
    except ValueError:
        return content.decode(errors="replace")


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the usual variables name for the URL."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    if not proxies or urllib.request.proxy_bypass_environment(parts.netloc, proxies):  # type: ignore[attr-defined]
        return None
    return proxies.get(parts.scheme) or proxies.get("all")
