"""envd's process service, over Connect RPC. A stream's frame is 1 flag byte, 4 length bytes and JSON."""

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from managed_session_devkit.simulators.e2b.egress_proxy import EgressProxy
from managed_session_devkit.simulators.e2b.envd_access import (
    EnvdUser,
    basic_user,
    check_token,
    envd_user,
    process_environment,
    resolve_path,
    running_sandbox,
    runtime_of,
    tracked,
)
from managed_session_devkit.simulators.e2b.errors import ConnectError
from managed_session_devkit.simulators.e2b.faults import Action
from managed_session_devkit.simulators.e2b.gateway import Call, Gateway
from managed_session_devkit.simulators.e2b.host import FileOperationError
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle
from managed_session_devkit.simulators.e2b.processes import EnvdProcess, ProcessConfig
from managed_session_devkit.simulators.e2b.sandbox import Sandbox
from managed_session_devkit.simulators.e2b.terminals import TerminalSize

_DEFAULT_KEEPALIVE_SECONDS: Final = 90.0
_END_OF_STREAM: Final = 2
_SIGNALS: Final = {"SIGNAL_SIGKILL": 9, "SIGNAL_SIGTERM": 15, 9: 9, 15: 15}


def frame(content: dict[str, Any], flags: int = 0) -> bytes:
    """Return a message as a frame."""
    encoded = json.dumps(content, separators=(",", ":")).encode()
    return struct.pack(">BI", flags, len(encoded)) + encoded


def _error_stream(error: ConnectError) -> Response:
    return Response(
        frame({"error": error.as_json()}, _END_OF_STREAM), 200, media_type="application/connect+json"
    )


def _number(call: Call, header: str) -> float:
    value = call.header(header) or ""
    return float(value) if value.isdigit() else 0.0


class ProcessRoutes:
    """Handles process.Process/*."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle, egress: EgressProxy) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle
        self._egress = egress

    def routes(self) -> list[Route]:
        """Return all routes of the service."""
        unary = {
            "List": ("process_list", self._list),
            "SendSignal": ("process_signal", self._signal),
            "SendInput": ("process_input", self._input),
            "Update": ("process_update", self._update),
            "CloseStdin": ("process_close_stdin", self._close_stdin),
        }
        streams = {"Start": ("process_start", self._start), "Connect": ("process_connect", self._connect)}
        return [
            *self._gateway.service("process.Process", unary, "json"),
            *self._gateway.service("process.Process", streams, "frame"),
        ]

    async def _sandbox(self, call: Call) -> Sandbox:
        sandbox = await running_sandbox(self._lifecycle, call)
        check_token(call, sandbox)
        return sandbox

    async def _start(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        user = envd_user(sandbox, basic_user(call))
        with tracked(call, sandbox):
            try:
                config = await self._config(call, sandbox, user)
                timeout = _number(call, "connect-timeout-ms") / 1000
                process = await runtime_of(sandbox).table.start(config, timeout)
            except ConnectError as error:
                return _error_stream(error)
        return self._stream(call, sandbox, process, process.deadline)

    async def _config(self, call: Call, sandbox: Sandbox, user: EnvdUser) -> ProcessConfig:
        wanted = call.body.get("process") or {}
        envs = {str(key): str(value) for key, value in (wanted.get("envs") or {}).items()}
        # The template's directory is every user's default.
        directory = resolve_path(str(wanted.get("cwd") or ""), user, sandbox.build.directory)
        try:
            await runtime_of(sandbox).process.request("file", action="stat", path=directory)
        except FileOperationError as error:
            raise ConnectError("invalid_argument", f"cwd '{directory}' does not exist") from error
        return ProcessConfig(
            command=str(wanted.get("cmd") or ""),
            arguments=[str(argument) for argument in wanted.get("args") or []],
            environment={**self._way_out(sandbox), **process_environment(sandbox, user, envs)},
            directory=directory,
            user=user.number,
            envs=envs,
            requested_directory=str(wanted.get("cwd") or ""),
            tag=call.body.get("tag"),
            stdin=call.body.get("stdin") is not False,
            terminal=TerminalSize.in_request(call.body),
        )

    def _way_out(self, sandbox: Sandbox) -> dict[str, str]:
        return self._egress.variables(sandbox.id) if self._lifecycle.settings.egress_proxy else {}

    async def _connect(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        retention = self._lifecycle.settings.exit_retention_seconds
        try:
            process = runtime_of(sandbox).table.find(call.body.get("process") or {}, retention)
        except ConnectError as error:
            return _error_stream(error)
        timeout = _number(call, "connect-timeout-ms") / 1000
        deadline = asyncio.get_running_loop().time() + timeout if timeout > 0 else None
        return self._stream(call, sandbox, process, deadline)

    def _stream(self, call: Call, sandbox: Sandbox, process: EnvdProcess, deadline: float | None) -> Response:
        keepalive = _number(call, "keepalive-ping-interval") or _DEFAULT_KEEPALIVE_SECONDS
        queue = process.listen()

        async def produce() -> AsyncIterator[bytes]:
            try:
                with tracked(call, sandbox):
                    events = _with_fault(_events(process, queue, keepalive, deadline), call.fault)
                    async for event in events:
                        yield event
                    if call.fault_name == "cut_stream" and call.transport is not None:
                        call.transport.abort()
            finally:
                process.stop_listening(queue)

        return StreamingResponse(produce(), 200, media_type="application/connect+json")

    async def _list(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        envd_user(sandbox, basic_user(call))
        with tracked(call, sandbox):
            processes = runtime_of(sandbox).table.list()
        entries = []
        for process in processes:
            entry: dict[str, Any] = {"config": process.config.as_json(), "pid": process.pid}
            if process.config.tag is not None:
                entry["tag"] = process.config.tag
            entries.append(entry)
        return JSONResponse({"processes": entries})

    async def _signal(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        number = _SIGNALS.get(call.body.get("signal", ""))
        if number is None:
            raise ConnectError("unimplemented", f"invalid signal: {call.body.get('signal')}")
        table = runtime_of(sandbox).table
        with tracked(call, sandbox):
            await table.signal(table.find(call.body.get("process") or {}).pid, number)
        return JSONResponse({})

    async def _input(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        process = runtime_of(sandbox).table.find(call.body.get("process") or {})
        kind = "pty" if process.config.terminal is not None else "stdin"
        data = base64.b64decode((call.body.get("input") or {}).get(kind) or "")
        await asyncio.to_thread(process.write_stdin, data)
        return JSONResponse({})

    async def _update(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        size = TerminalSize.in_request(call.body)
        process = runtime_of(sandbox).table.find(call.body.get("process") or {})
        if size is not None:
            process.resize(size)
        return JSONResponse({})

    async def _close_stdin(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        runtime_of(sandbox).table.find(call.body.get("process") or {}).close_stdin()
        return JSONResponse({})


async def _events(
    process: EnvdProcess,
    queue: "asyncio.Queue[dict[str, Any] | None]",
    keepalive: float,
    deadline: float | None,
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    yield frame({"event": {"start": {"pid": process.pid}}})
    while True:
        wait = keepalive if deadline is None else min(keepalive, deadline - loop.time())
        event: dict[str, Any] | None = {"keepalive": {}}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait)):
                event = await queue.get()
        if deadline is not None and loop.time() >= deadline:
            # Also if this has just killed the process: the end of the stream comes first.
            error = ConnectError("deadline_exceeded", "context deadline exceeded")
            yield frame({"error": error.as_json()}, _END_OF_STREAM)
            return
        if event is None:
            break
        yield frame({"event": event})
    if process.end is None:
        error = ConnectError("unavailable", "the sandbox is gone")
        yield frame({"error": error.as_json()}, _END_OF_STREAM)
        return
    yield frame({"event": {"end": process.end}})
    yield frame({}, _END_OF_STREAM)


async def _with_fault(events: AsyncIterator[bytes], fault: Action | None) -> AsyncIterator[bytes]:
    count = 0
    async for event in events:
        if (
            fault is not None
            and fault.action in ("silent_stream", "cut_stream")
            and count >= fault.after_events
        ):
            if fault.action == "cut_stream":
                return
            await asyncio.sleep(fault.seconds or 86_400)
        yield event
        count += 1
