"""The ASGI application: the API's operations and the control surface."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from managed_session_devkit.simulators.anthropic import (
    connections,
    control_routes,
    resource_routes,
    session_routes,
    work_routes,
)
from managed_session_devkit.simulators.anthropic.cloud import Cloud
from managed_session_devkit.simulators.anthropic.errors import error_body
from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.anthropic.operations import JSONResponse, route
from managed_session_devkit.simulators.anthropic.settings import Settings

OPERATIONS = [*work_routes.OPERATIONS, *session_routes.OPERATIONS, *resource_routes.OPERATIONS]


def create_app(settings: Settings) -> Starlette:
    """Return the application. Its `state.cloud` exists after the start."""
    names = tuple(operation.name for operation in OPERATIONS)

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        application.state.cloud = Cloud(settings, names)
        try:
            yield
        finally:
            await application.state.cloud.close()

    def cloud() -> Cloud:
        current: Cloud = app.state.cloud
        return current

    async def reset(_: Request) -> Response:
        old, app.state.cloud = app.state.cloud, Cloud(settings, names)
        await old.close()
        return JSONResponse({})

    async def lose_network(request: Request) -> Response:
        """Lose the connections of workers or operators; `{"of": [kind…], "seconds": n}`."""
        wanted = await request.json()
        transports = connections.of_credentials(wanted["of"])
        return JSONResponse({"lost": app.state.network.lose(transports, float(wanted.get("seconds", 0)))})

    app = Starlette(
        routes=[
            Route("/_simulator/reset", reset, methods=["POST"]),
            Route("/_simulator/network/loss", lose_network, methods=["POST"]),
            *(route(cloud, operation) for operation in OPERATIONS),
            *control_routes.routes(cloud),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse(
        error_body(status, f"{request.method} {request.url.path}: not simulated", new_id("req")), status
    )
