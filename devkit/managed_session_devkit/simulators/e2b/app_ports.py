"""Forwards requests for a sandbox's ports, other than envd's, to the same ports of this host.

Simulated sandboxes share the host's network, so a port belongs to the first that listens on it.
"""

from collections.abc import AsyncIterator
from typing import Final

import httpx
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from managed_session_devkit.simulators.e2b.envd_access import port_of, running_sandbox
from managed_session_devkit.simulators.e2b.errors import ProxyError
from managed_session_devkit.simulators.e2b.gateway import Call, Gateway
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle

_HOP_HEADERS: Final = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}
_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class PortRoutes:
    """A reverse proxy."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(600, connect=5), trust_env=False)

    def routes(self) -> list[Route]:
        """Return one route for all requests."""
        return [
            Route(
                "/{path:path}",
                self._gateway.endpoint("app_port", self._forward, api_key=False),
                methods=_METHODS,
            )
        ]

    async def _forward(self, call: Call) -> Response:
        port = port_of(call)
        sandbox = await running_sandbox(self._lifecycle, call)
        if sandbox.traffic_token and call.header("e2b-traffic-access-token") != sandbox.traffic_token:
            raise ProxyError(403, sandbox.id, "Sandbox is secured with traffic access token", port)
        url = call.request.url
        target = httpx.URL(
            scheme="http", host="127.0.0.1", port=port, path=url.path, query=url.query.encode()
        )
        headers = [(name, value) for name, value in call.request.headers.items() if name not in _HOP_HEADERS]
        request = self._client.build_request(
            call.request.method, target, headers=headers, content=await call.request.body()
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise ProxyError(502, sandbox.id, "The sandbox is running but port is not open", port) from error

        async def produce() -> AsyncIterator[bytes]:
            async for chunk in answer.aiter_raw():
                yield chunk

        kept = {name: value for name, value in answer.headers.items() if name not in _HOP_HEADERS}
        return StreamingResponse(
            produce(), answer.status_code, kept, background=BackgroundTask(answer.aclose)
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
