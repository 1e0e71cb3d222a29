"""Liveness, readiness and metrics over HTTP, and a server that runs inside an existing event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry, Info
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

Check = Callable[[], tuple[bool, dict[str, Any]]]
"""Answers at once, without I/O: whether all is well, and details for a person (JSON values)."""


def always_ok() -> tuple[bool, dict[str, Any]]:
    """The check of a process that is alive as long as it answers."""
    return True, {}


def probe_app(*, ready: Check, live: Check = always_ok, registry: CollectorRegistry = REGISTRY) -> Starlette:
    """The ASGI app with `GET /livez`, `GET /readyz` (200 or 503, JSON details) and `GET /metrics`."""

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

    The version is `unknown` where the distribution isn't installed but on the path only.
    """
    try:
        number = version("managed-sessions")
    except PackageNotFoundError:
        number = "unknown"
    info = Info("managed_sessions_build", "Which build of which component runs.", registry=registry)
    info.info({"component": component, "version": number})


class _Server(uvicorn.Server):
    """uvicorn's server for a loop whose signals belong to someone else."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell who waits that connections are accepted."""
        await super().startup(sockets=sockets)
        self.listening.set()


class RunningServer:
    """A server that accepts connections until its `serve` block ends."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """Base address for a client on the same machine."""
        host = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104 - compared
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def listen(host: str, port: int, *, backlog: int = 2048) -> socket.socket:
    """A listening socket. `::` accepts IPv4 too, and means every IPv4 address where there is no IPv6.

    Raises:
        OSError: the address cannot be bound.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - asked for by the caller
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
    """Serve `app` in the running event loop for the time of the block.

    At the block's end no new connection is accepted, requests under way may finish within
    `drain_seconds`, and what is left is cancelled.

    Args:
        app: the ASGI app; it gets no lifespan events.
        host: address to bind; see `listen`.
        port: 0 picks a free one: read it from the result.
        drain_seconds: time for requests under way at the end.
        keep_alive_seconds: how long an idle connection is kept.
        limit_concurrency: connections above this get a 503 from the server itself.

    Raises:
        OSError: the address cannot be bound.
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
