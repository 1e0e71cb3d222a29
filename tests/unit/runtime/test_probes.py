"""Probes and their server, over real HTTP."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import httpx
import pytest
from managed_session_runtime.probes import listen, probe_app, serve
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send


async def test_readiness_follows_its_check_and_liveness_does_not() -> None:
    state: dict[str, Any] = {"ok": False}
    app = probe_app(ready=lambda: (state["ok"], {"reason": "starting"}), registry=CollectorRegistry())
    async with serve(app, host="127.0.0.1", port=0) as server, httpx.AsyncClient() as client:
        answer = await client.get(f"{server.url}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ok": False, "reason": "starting"})
        assert (await client.get(f"{server.url}/livez")).status_code == 200
        state["ok"] = True
        assert (await client.get(f"{server.url}/readyz")).status_code == 200


async def test_metrics_are_in_prometheus_text() -> None:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    async with (
        serve(probe_app(ready=lambda: (True, {}), registry=registry), host="::", port=0) as server,
        httpx.AsyncClient() as client,
    ):
        answer = await client.get(f"{server.url}/metrics")
    assert "things_total 1.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


async def test_signal_handlers_stay_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with serve(probe_app(ready=lambda: (True, {})), host="127.0.0.1", port=0):
        assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_pending_request_is_answered_when_the_block_ends() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await leave.wait()
        await PlainTextResponse("done")(Request(scope, receive).scope, receive, send)

    async with httpx.AsyncClient() as client:
        async with serve(slow, host="127.0.0.1", port=0, drain_seconds=30) as server:
            request = asyncio.create_task(client.get(server.url))
            await entered.wait()
            asyncio.get_running_loop().call_later(0.2, leave.set)
        assert (await request).text == "done"


async def test_a_port_in_use_is_an_error_of_the_caller() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        async with serve(probe_app(ready=lambda: (True, {})), host="127.0.0.1", port=taken.getsockname()[1]):
            pass
