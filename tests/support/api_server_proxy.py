"""A proxy before the API server: it keeps a ledger of calls, and holds, refuses, cuts or silences some.

Plain HTTP to the pods, TLS to the API server; the bearer token of the pod's ServiceAccount goes through, so
that its rights are what they are.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qs
from weakref import WeakSet

import aiohttp
from aiohttp import web

CONNECTIONS = 2000
_SO_ATTACH_FILTER = 26
"""Of Linux; Python's `socket` does not name it."""

_HOP_BY_HOP = frozenset(
    {"connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive", "host"}
)


@dataclass(frozen=True)
class ApiCall:
    """One call to the API server.

    Attributes:
        verb: get, list, watch, create, update, patch or delete.
        resource: plural with its subresource, e.g. `managedsessions/status`.
        name: of the object; empty for a collection and for a create.
        body: the JSON sent; None where there is none.
    """

    verb: str
    resource: str
    name: str
    body: Any = field(repr=False)

    @property
    def operation(self) -> str:
        """E.g. `patch managedsessions/status`."""
        return f"{self.verb} {self.resource}"


@dataclass
class Rule:
    """What happens to the calls that match: from call number `skip` on, `times` times (None: always).

    `hold` keeps the call back until `release`, or for `seconds`; `answer` gives a status of its own; `cut`
    drops it; `silence` accepts a watch and never says anything. With `after_commit` the API server has
    carried the call out, and only its answer is held, replaced or lost.
    """

    matches: Callable[[ApiCall], bool]
    action: Literal["hold", "answer", "cut", "silence"]
    after_commit: bool = False
    status: int = 503
    seconds: float | None = None
    times: int | None = 1
    skip: int = 0
    hits: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Some call has been hit."""
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _forward: bool = True

    def release(self, *, forward: bool = True) -> None:
        """Let held calls go on, or (not `forward`) be lost, as those of a process that was killed are."""
        self._forward = forward
        self._released.set()

    async def wait_for_release(self) -> bool:
        """Wait; whether the call goes on."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._released.wait(), self.seconds)
        return self._forward

    def take(self, call: ApiCall) -> bool:
        """Whether the rule applies to this call; counts it."""
        if self.times is not None and self.hits >= self.times:
            return False
        if not self.matches(call):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        self.reached.set()
        return True


class ApiServerProxy:
    """One pod's way to the API server, for as long as the `async with` block lasts.

    Args:
        url: the API server's.
        ca: file with the certificate that signed the API server's.
    """

    def __init__(self, url: str, ca: Path) -> None:
        self._upstream = url.rstrip("/")
        self._ssl = ssl.create_default_context(cafile=str(ca))
        self._rules: list[Rule] = []
        self._watches: dict[web.StreamResponse, aiohttp.ClientResponse] = {}
        self._muted: WeakSet[web.StreamResponse] = WeakSet()
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._dead: WeakSet[asyncio.Transport] = WeakSet()
        self._open: set[asyncio.Task[Any]] = set()
        self.calls: list[ApiCall] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.clear()
        for task in list(self._open):
            task.cancel()
        await self._runner.cleanup()
        await self._session.close()

    def hold(self, matches: Callable[[ApiCall], bool], *, after_commit: bool = False, skip: int = 0) -> Rule:
        """Hold the next call that matches."""
        return self._add(Rule(matches, "hold", after_commit=after_commit, skip=skip))

    def slow(self, matches: Callable[[ApiCall], bool], seconds: float) -> Rule:
        """Let each call that matches take so much longer."""
        return self._add(Rule(matches, "hold", seconds=seconds, times=None))

    def answer(
        self,
        matches: Callable[[ApiCall], bool],
        status: int,
        *,
        after_commit: bool = False,
        times: int | None = 1,
        skip: int = 0,
    ) -> Rule:
        """Answer calls that match with an error of this status."""
        rule = Rule(matches, "answer", after_commit=after_commit, status=status, times=times, skip=skip)
        return self._add(rule)

    def cut(
        self,
        matches: Callable[[ApiCall], bool],
        *,
        after_commit: bool = False,
        times: int | None = 1,
        skip: int = 0,
    ) -> Rule:
        """Drop the connection of calls that match, before or after they took effect."""
        return self._add(Rule(matches, "cut", after_commit=after_commit, times=times, skip=skip))

    def silence_watches(self) -> Rule:
        """Let watches, those that are open and new ones, bring nothing; they stay open."""
        return self._add(Rule(lambda call: call.verb == "watch", "silence", times=None))

    def mute_open_watches(self) -> None:
        """Let the watches that are open now bring nothing more; a kernel still acknowledges for them.

        So does a load balancer whose other side is gone.
        """
        self._muted.update(self._watches)

    def drop_connections(self) -> None:
        """Let every connection that is open now die without a word: no FIN, no RST, no acknowledgement.

        So does a NAT that has forgotten them, and an API server whose machine is gone. New ones are served.
        """
        self.mute_open_watches()
        for transport in self._transports:
            if not transport.is_closing():
                drop_silently(transport.get_extra_info("socket"))
                self._dead.add(transport)

    @property
    def watched(self) -> bool:
        """Whether a watch is open."""
        return bool(self._watches)

    async def expire_watches(self) -> None:
        """End all open watches with 410 Gone, as after a compaction: what happened in the gap is lost."""
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
        line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
        expired, self._watches = self._watches, {}
        for response, upstream in expired.items():
            with suppress(ConnectionError, RuntimeError):
                await response.write(line)
                await response.write_eof()
            # The next request on its connection would wait for the end of this one.
            upstream.close()

    def remove(self, rule: Rule) -> None:
        """Take a rule away; calls that it holds go on."""
        rule.release()
        if rule in self._rules:
            self._rules.remove(rule)

    def clear(self) -> None:
        """Take all rules away; held calls go on."""
        for rule in list(self._rules):
            self.remove(rule)

    @asynccontextmanager
    async def partitioned(self) -> AsyncIterator[None]:
        """The pod reaches no API server while the block lasts: open connections end, new calls are cut."""
        rule = self.cut(lambda _: True, times=None)
        for task in list(self._open):
            task.cancel()
        try:
            yield
        finally:
            self.remove(rule)

    def _add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        if request.transport is not None:
            self._transports.add(request.transport)
        try:
            content = await request.read()
            call = parse(request.method, request.path, request.query_string, content)
            self.calls.append(call)
            rule = next((each for each in self._rules if each.take(call)), None)
            if rule is not None and not rule.after_commit:
                early = await self._apply(rule, request)
                if early is not None:
                    return early
            response = await self._forward(request, content, call, rule)
            if request.transport in self._dead:
                await asyncio.Event().wait()
            return response
        finally:
            self._open.discard(task)

    async def _apply(self, rule: Rule, request: web.Request) -> web.StreamResponse | None:
        match rule.action:
            case "hold":
                if not await rule.wait_for_release():
                    return _cut(request)
            case "cut":
                return _cut(request)
            case "answer":
                return _refusal(rule.status)
        return None

    async def _forward(
        self, request: web.Request, content: bytes, call: ApiCall, rule: Rule | None
    ) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        headers["Accept-Encoding"] = "identity"
        url = f"{self._upstream}{request.path_qs}"
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=content or None
            ) as answer:
                if call.verb == "watch" and answer.status == 200:
                    return await self._relay_watch(request, answer)
                payload = await answer.read()
                status, reply = answer.status, _kept(answer.headers)
        except aiohttp.ClientError:
            return _cut(request)
        if rule is not None and rule.after_commit:
            late = await self._apply(rule, request)
            if late is not None:
                return late
        return web.Response(body=payload, status=status, headers=reply)

    async def _relay_watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=200, headers=_kept(answer.headers))
        await response.prepare(request)
        self._watches[response] = answer
        try:
            # Whole lines, so that a silence never begins or ends within an event.
            async for line in answer.content:
                if response not in self._watches:
                    break
                if response in self._muted:
                    continue
                if not any(rule.action == "silence" for rule in self._rules):
                    await response.write(line)
        except (aiohttp.ClientError, ConnectionError):
            pass
        finally:
            self._watches.pop(response, None)
        return response


def drop_silently(connection: Any) -> None:
    """Let the kernel drop what comes in on a TCP connection before it is acknowledged (socket(7))."""
    # One instruction of classic BPF: accept 0 bytes, BPF_RET | BPF_K with k = 0.
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(instruction))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def parse(method: str, path: str, query: str, content: bytes) -> ApiCall:
    """Name a call by its method and path, as the API server's own authorizer does."""
    parts = [part for part in path.split("/") if part]
    parts = parts[2:] if parts[:1] == ["api"] else parts[3:] if parts[:1] == ["apis"] else []
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    plural, name, *_ = [*parts, "", ""]
    resource = "/".join([plural, *parts[2:3]])
    if method == "GET":
        watching = parse_qs(query).get("watch", [""])[0] in ("1", "true")
        verb = "watch" if watching else "get" if name or not plural else "list"
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    else:
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(method, method.lower())
    body: Any = None
    if content:
        with suppress(ValueError):
            body = json.loads(content)
    return ApiCall(verb, resource or path, name, body)


def _kept(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


def _refusal(status: int) -> web.Response:
    reasons = {
        401: "Unauthorized",
        403: "Forbidden",
        404: "NotFound",
        409: "Conflict",
        410: "Expired",
        429: "TooManyRequests",
    }
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "injected fault",
        "reason": reasons.get(status, "InternalError"),
        "code": status,
    }
    return web.json_response(body, status=status)


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)
