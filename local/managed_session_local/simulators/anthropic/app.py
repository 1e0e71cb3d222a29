"""The ASGI application: the API's operations and the control surface."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import control_routes, resource_routes, session_routes, work_routes
from .cloud import Cloud
from .errors import error_body
from .identifiers import new_id
from .operations import JSONResponse, route
from .settings import Settings

OPERATIONS = [*work_routes.OPERATIONS, *session_routes.OPERATIONS, *resource_routes.OPERATIONS]


def create_app(settings: Settings) -> Starlette:
    """Return the application; its `state.cloud` exists once it has started."""
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

    app = Starlette(
        routes=[
            Route("/_simulator/reset", reset, methods=["POST"]),
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
