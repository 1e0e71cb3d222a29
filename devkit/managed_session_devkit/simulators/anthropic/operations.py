"""Serves one operation of the API: fault, latency, credential, effect, answer, ledger entry."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from managed_session_devkit.simulators.anthropic import connections
from managed_session_devkit.simulators.anthropic.cloud import Cloud
from managed_session_devkit.simulators.anthropic.credentials import Credential, Kind
from managed_session_devkit.simulators.anthropic.errors import APIError, error_body
from managed_session_devkit.simulators.anthropic.faults import Action
from managed_session_devkit.simulators.anthropic.identifiers import new_id


@dataclass
class Call:
    """The parts of a request that a handler needs.

    Attributes:
        body: JSON object of the request. Empty if there is none.
        fields: what the ledger records about the call, beside status and time.
        action: the fault that applies to the call.
    """

    cloud: Cloud
    request: Request
    credential: Credential
    body: dict[str, Any]
    action: Action | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """Return a path parameter."""
        return str(self.request.path_params[name])

    def integer(self, name: str) -> int | None:
        """Return a query parameter as a number. Raises APIError 400."""
        value = self.request.query_params.get(name)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError:
            raise APIError(400, f"{name}: Input should be a valid integer") from None

    def many(self, name: str) -> list[str]:
        """Return a repeated query parameter, named `name` or `name[]`."""
        query = self.request.query_params
        return query.getlist(f"{name}[]") + query.getlist(name)


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """An operation, with its route and the kinds of credentials that it accepts."""

    name: str
    method: str
    path: str
    accepts: frozenset[Kind]
    handler: Handler


class JSONResponse(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialize."""
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def route(cloud: Callable[[], Cloud], operation: Operation) -> Route:
    """Return the route that serves an operation."""

    async def endpoint(request: Request) -> Response:
        return await serve(cloud(), operation, request)

    return Route(operation.path, endpoint, methods=[operation.method], name=operation.name)


async def serve(cloud: Cloud, operation: Operation, request: Request) -> Response:
    """Serve one request of an operation."""
    started = time.time()
    request_id = new_id("req")
    fields = _fields_of(request)
    content = await request.body()
    credential = _credential_of(cloud, operation, request, fields)
    action = cloud.faults.next(operation.name, fields)
    latency = cloud.settings.latency_of(operation.name).sample_seconds() / 2
    await _pause(latency)
    before = await _fault_before(action, request, request_id)
    if before is not None:
        response, fields["fault"] = before
    else:
        try:
            if isinstance(credential, APIError):
                raise credential
            call = Call(cloud, request, credential, _json_object(content), action)
            response = await _handled(operation, call, fields)
        except APIError as error:
            response = JSONResponse(error.body(request_id), error.status)
        if action is not None:
            response = await _fault_after(action, request, response, request_id)
            fields["fault"] = action.action
        await _pause(latency)
    if action is not None:
        cloud.ledger.faults_applied[f"{operation.name} {action.action}"] += 1
    response.headers.setdefault("request-id", request_id)
    dropped = action is not None and action.action in ("drop_before", "drop_after_commit")
    cloud.ledger.call(
        {
            "at": started,
            "milliseconds": round((time.time() - started) * 1000, 3),
            "operation": operation.name,
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "status": "dropped" if dropped else response.status_code,
            "request_id": request_id,
            **fields,
        }
    )
    return response


def _credential_of(
    cloud: Cloud, operation: Operation, request: Request, fields: dict[str, Any]
) -> Credential | APIError:
    """Return who asks, or why that is refused; the ledger gets to know it."""
    try:
        credential = cloud.credentials.identify(request.headers, operation.accepts)
        fields["credential"] = credential.kind
        connections.note_credential(request, credential.kind)
    except APIError as refusal:
        return refusal
    fields["credential_name"] = credential.name
    return credential


async def _handled(operation: Operation, call: Call, fields: dict[str, Any]) -> Response:
    try:
        return await operation.handler(call)
    finally:
        fields.update(call.fields)


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


async def _fault_before(
    action: Action | None, request: Request, request_id: str
) -> tuple[Response, str] | None:
    if action is None:
        return None
    if action.action == "drop_before":
        await connections.cut(request)
        return Response(status_code=503), action.action
    if action.action == "hang" and not action.after_commit:
        await action.wait()
    if action.action == "respond" and not action.after_commit:
        await action.wait()
        return _fault_response(action, request_id), action.action
    return None


async def _fault_after(action: Action, request: Request, response: Response, request_id: str) -> Response:
    if action.action == "drop_after_commit":
        await connections.cut(request)
    elif action.action == "hang" and action.after_commit:
        await action.wait()
    elif action.action == "respond" and action.after_commit:
        await action.wait()
        return _fault_response(action, request_id)
    return response


def _fault_response(action: Action, request_id: str) -> Response:
    status = action.status or 503
    content = action.body
    if content is None and status >= 400:
        content = error_body(status, "injected fault", request_id)
    if isinstance(content, str):
        return Response(content, status, headers=action.headers)
    return JSONResponse(content, status, headers=action.headers)


def _fields_of(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = dict(request.path_params)
    worker = request.headers.get("anthropic-worker-id")
    helper = request.headers.get("x-stainless-helper")
    if worker:
        fields["worker_id"] = worker
    if helper:
        fields["helper"] = helper
    return fields


def _json_object(content: bytes) -> dict[str, Any]:
    if not content:
        return {}
    try:
        value = json.loads(content)
    except ValueError:
        raise APIError(400, "The request body is not valid JSON") from None
    if not isinstance(value, dict):
        raise APIError(400, "The request body must be a JSON object")
    return value
