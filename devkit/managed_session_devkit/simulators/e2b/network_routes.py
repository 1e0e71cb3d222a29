"""Lets a test cut the network between E2B and its clients."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_devkit.simulators.common.network_loss import NetworkLoss
from managed_session_devkit.simulators.e2b.egress_proxy import EgressProxy

_CONTROL_SURFACE: Final = "/_simulator"
_clients: set[asyncio.Transport] = set()


def note_request(transport: asyncio.Transport, path: str) -> None:
    """Remember a client's connection, except those to the control surface."""
    if not path.startswith(_CONTROL_SURFACE):
        _clients.add(transport)


def forget(transport: asyncio.Transport) -> None:
    """Forget a connection that has ended."""
    _clients.discard(transport)


def route(network: NetworkLoss) -> Route:
    """Return the route that loses the network: `{"seconds": n, "reset": b}`."""

    async def lose(request: Request) -> Response:
        wanted = await request.json()
        seconds, reset = float(wanted.get("seconds", 0)), bool(wanted.get("reset"))
        lost = network.lose(list(_clients), seconds, reset=reset)
        _clients.clear()
        return JSONResponse({"lost": lost})

    return Route(f"{_CONTROL_SURFACE}/network/loss", lose, methods=["POST"])


def egress_route(proxy: EgressProxy) -> Route:
    """Return the route that shows what sandboxes have requested through the egress proxy."""

    async def show(_: Request) -> Response:
        return JSONResponse(proxy.requests)

    return Route(f"{_CONTROL_SURFACE}/egress", show, methods=["GET"])
