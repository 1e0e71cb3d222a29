"""Handles the common part of every call: credential, faults, latency and ledger."""

import asyncio
import hmac
import json
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from managed_session_devkit.simulators.e2b.errors import ApiError, SimulatedError
from managed_session_devkit.simulators.e2b.faults import Action, Faults
from managed_session_devkit.simulators.e2b.ledger import Ledger
from managed_session_devkit.simulators.e2b.settings import Settings

Body = Literal["none", "json", "frame", "raw"]
TRANSPORT: Final = "simulator.transport"
_ENDS_WITH_ITS_CLIENT: Final = frozenset({"create", "connect", "pause"})
"""E2B cancels these operations if their client leaves, or if they take too long."""


@dataclass
class Call:
    """One request of an operation."""

    request: Request
    operation: str
    body: dict[str, Any] = field(default_factory=dict)
    sandbox_id: str | None = None
    fault: Action | None = None
    began: float = field(default_factory=time.monotonic)
    takes_time_itself: bool = False

    @property
    def fault_name(self) -> str | None:
        """The named action of the fault that affects this call."""
        return self.fault.action if self.fault else None

    @property
    def transport(self) -> asyncio.Transport | None:
        """The client's TCP connection."""
        transport: asyncio.Transport | None = self.request.scope.get(TRANSPORT)
        return transport

    def header(self, name: str) -> str | None:
        """Return a request header."""
        value: str | None = self.request.headers.get(name)
        return value


Handler = Callable[[Call], Awaitable[Response]]


class DroppedResponse(Response):
    """Resets the TCP connection instead of answering."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Reset the connection."""
        scope[TRANSPORT].abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class Gateway:
    """Wraps handlers. Holds the data that the control surface shows and changes."""

    def __init__(self, settings: Settings, faults: Faults, ledger: Ledger) -> None:
        self.settings = settings
        self._faults = faults
        self._ledger = ledger
        self._unattended: set[asyncio.Task[Response]] = set()

    def endpoint(
        self, operation: str, handler: Handler, *, body: Body = "none", api_key: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a Starlette endpoint for `handler`."""

        async def serve(request: Request) -> Response:
            call = Call(request, operation)
            call.sandbox_id = request.path_params.get("sandbox_id") or request.headers.get("e2b-sandbox-id")
            entry = self._ledger.record(
                operation=operation,
                method=request.method,
                path=request.url.path,
                sandboxID=call.sandbox_id,
                idempotencyKey=request.headers.get("idempotency-key"),
                credential=self._credential(request),
            )
            try:
                response = await self._answer(call, handler, body, api_key=api_key, entry=entry)
            except ClientDisconnect:
                response = DroppedResponse()
            if isinstance(response, DroppedResponse):
                entry["status"] = "dropped"
            else:
                entry["status"] = response.status_code
            entry["durationMs"] = round((time.monotonic() - call.began) * 1000, 2)
            return response

        return serve

    def service(self, name: str, methods: Mapping[str, tuple[str, Handler]], body: Body) -> list[Route]:
        """The routes of one of envd's Connect services: by method, the operation's name and its handler."""
        return [
            Route(
                f"/{name}/{method}",
                self.endpoint(operation, handler, body=body, api_key=False),
                methods=["POST"],
            )
            for method, (operation, handler) in methods.items()
        ]

    def _credential(self, request: Request) -> str:
        if request.headers.get("e2b-sandbox-id"):
            return "access-token" if request.headers.get("x-access-token") else "none"
        key = request.headers.get("x-api-key")
        if not key:
            return "none"
        return "api-key" if self._key_accepted(key) else "invalid-api-key"

    def _key_accepted(self, key: str) -> bool:
        accepted = self.settings.api_keys
        known = [*accepted, *self.settings.other_teams_keys]
        return not accepted or any(hmac.compare_digest(key.encode(), each.encode()) for each in known)

    async def _answer(
        self, call: Call, handler: Handler, body: Body, *, api_key: bool, entry: dict[str, Any]
    ) -> Response:
        try:
            if api_key:
                self._check_key(call.request)
            await _read_body(call, body)
        except SimulatedError as error:
            return error.response()
        call.fault = fault = self._faults.take(call.operation, _context(call))
        if fault is not None:
            entry["fault"] = fault.name
            before = await _before_commit(fault)
            if before is not None:
                return before
        if isinstance(call.body.get("metadata"), dict):
            entry["metadata"] = call.body["metadata"]
        if call.fault_name == "drop_while_in_progress":
            task = asyncio.get_running_loop().create_task(self._operate(call, handler, entry))
            self._unattended.add(task)
            task.add_done_callback(self._unattended.discard)
            return DroppedResponse()
        operate = self._run_while_connected if call.operation in _ENDS_WITH_ITS_CLIENT else self._operate
        return await _after_commit(fault, await operate(call, handler, entry))

    async def _run_while_connected(self, call: Call, handler: Handler, entry: dict[str, Any]) -> Response:
        """Run an operation until it ends, its client leaves, or the API gives up."""
        operating = asyncio.ensure_future(self._operate(call, handler, entry))
        leaving = asyncio.ensure_future(_disconnected(call.request))
        tasks = {operating, leaving}
        try:
            await asyncio.wait(
                tasks, timeout=self.settings.api_budget_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if operating.done():
                return operating.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._ledger.count(f"{call.operation}_cancelled")
        if leaving.cancelled():
            return ApiError(500, f"{call.operation} took too long").response()
        return DroppedResponse()

    async def _operate(self, call: Call, handler: Handler, entry: dict[str, Any]) -> Response:
        try:
            response = await handler(call)
        except SimulatedError as error:
            response = error.response()
        if call.sandbox_id is not None:
            entry["sandboxID"] = call.sandbox_id
        if not call.takes_time_itself:
            await self.take_time(call)
        return response

    async def take_time(self, call: Call) -> None:
        """Wait until the call has taken the time that the latency model, or its fault, defines."""
        wanted = self.settings.latency_seconds(call.operation)
        if call.fault is not None and call.fault_name == "drop_while_in_progress":
            wanted = call.fault.seconds
        remaining = wanted - (time.monotonic() - call.began)
        if remaining > 0:
            await asyncio.sleep(remaining)

    def _check_key(self, request: Request) -> None:
        key = request.headers.get("x-api-key")
        if not key:
            raise ApiError(401, "no authorization header found")
        if not self._key_accepted(key):
            raise ApiError(401, "Cannot get the team for the given API key")


async def _disconnected(request: Request) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _before_commit(fault: Action) -> Response | None:
    if fault.action == "drop_before":
        return DroppedResponse()
    if fault.action == "hang":
        await fault.wait()
    if fault.status is not None and not fault.after_commit and not fault.recorded:
        await fault.wait()
        return status_answer(fault)
    return None


async def _after_commit(fault: Action | None, response: Response) -> Response:
    if fault is None:
        return response
    if fault.action == "drop_after_commit":
        return DroppedResponse()
    if fault.action == "hang_after_commit":
        await fault.wait()
    if fault.after_commit:
        await fault.wait()
        return status_answer(fault)
    if fault.action == "idempotency_outcome_unknown":
        return ApiError(504, "Gateway Timeout").response()
    return response


def status_answer(fault: Action) -> Response:
    """Return the answer of a fault with a status."""
    assert fault.status is not None
    if isinstance(fault.body, str):
        return Response(fault.body, fault.status, fault.headers)
    content = fault.body if fault.body is not None else {"code": fault.status, "message": "injected fault"}
    return JSONResponse(content, fault.status, fault.headers)


def _context(call: Call) -> dict[str, Any]:
    return {
        "sandboxID": call.sandbox_id,
        "templateID": call.body.get("templateID"),
        "metadata": call.body.get("metadata"),
        "idempotencyKey": call.header("idempotency-key"),
        "path": call.request.url.path,
        "query": dict(call.request.query_params),
        "body": call.body,
    }


async def _read_body(call: Call, kind: Body) -> None:
    if kind in ("none", "raw"):
        return
    raw = await call.request.body()
    if kind == "frame":
        if len(raw) < 5 or len(raw) < 5 + struct.unpack(">I", raw[1:5])[0]:
            raise ApiError(400, "incomplete message frame")
        raw = raw[5 : 5 + struct.unpack(">I", raw[1:5])[0]]
    if not raw:
        return
    try:
        parsed = json.loads(raw)
    except ValueError as error:
        raise ApiError(400, "request body is not JSON") from error
    if not isinstance(parsed, dict):
        raise ApiError(400, "request body is not a JSON object")
    call.body = parsed
