"""Serves liveness, readiness and metrics over HTTP, within an existing event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import uvicorn
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

Check = Callable[[], tuple[bool, dict[str, Any]]]
"""Returns at once, without I/O: whether the check passes, and details for people (JSON values)."""


def always_ok() -> tuple[bool, dict[str, Any]]:
    """Check that always passes, for a process that is alive as long as it answers."""
    return True, {}


def probe_app(*, ready: Check, live: Check = always_ok, registry: CollectorRegistry = REGISTRY) -> Starlette:
    """Build the ASGI app with `GET /livez`, `GET /readyz` (200 or 503, JSON details) and `GET /metrics`."""

    def answer(check: Check) -> Callable[[Request], Any]:
        async def endpoint(_: Request) -> Response:
            well, detail = check()
            return JSONResponse({"ok": well, **detail}, status_code=200 if well else 503)

        return endpoint

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/livez", answer(live)),
            Route("/readyz", answer(ready)),
            Route("/metrics", metrics),
        ]
    )


def publish_build_info(component: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Publish the metric `managed_sessions_build_info` with labels `component` and `version`.

    The version is `unknown` if the distribution is on the path, but not installed. A registry of its own also
    gets what the default one has: the metrics of the process and of Python.
    """
    if registry is not REGISTRY:
        for of_process in (ProcessCollector, PlatformCollector, GCCollector):
            of_process(registry=registry)
    try:
        number = version("managed-sessions")
    except PackageNotFoundError:
        number = "unknown"
    info = Info("managed_sessions_build", "Version of the running component.", registry=registry)
    info.info({"component": component, "version": number})


class _Server(uvicorn.Server):
    """uvicorn's server for a loop whose signals are handled elsewhere."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Keep the process's signal handlers."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Report that connections are accepted."""
        await super().startup(sockets=sockets)
        self.listening.set()


class RunningServer:
    """A server that accepts connections until its `serve` block ends."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """Base URL for a client on the same machine."""
        host = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104 - compared
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def listen(host: str, port: int, *, backlog: int = 2048) -> socket.socket:
    """Open a listening socket. `::` also accepts IPv4; without IPv6 it means all IPv4 addresses.

    Raises:
        OSError: the address is not available.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - requested by the caller
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog, dualstack_ipv6=host == "::")


@contextlib.asynccontextmanager
async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    drain_seconds: float = 5.0,
    keep_alive_seconds: int = 75,
    limit_concurrency: int | None = None,
) -> AsyncIterator[RunningServer]:
    """Serve `app` in the running event loop for the duration of the block.

    At the end of the block, the server accepts no new connections. Requests in progress have `drain_seconds`
    to finish, and are then cancelled.

    Args:
        app: the ASGI app. It gets no lifespan events.
        host: address to bind; see `listen`.
        port: port to bind; 0 picks a free port, which the result shows.
        drain_seconds: seconds that requests in progress get to finish.
        keep_alive_seconds: seconds for which an idle connection stays open.
        limit_concurrency: maximum number of connections; the server answers further ones with 503.

    Raises:
        OSError: the address is not available.
    """
    listener = listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        limit_concurrency=limit_concurrency,
    )
    server = _Server(config)
    address = listener.getsockname()
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http server on port {address[1]}")
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield RunningServer(address[0], address[1])
    finally:
        listening.cancel()
        server.should_exit = True
        try:
            await asyncio.shield(task)
        finally:
            listener.close()
