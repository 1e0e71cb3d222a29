"""The control surface, `/_simulator/…`, for tests, the demo and benchmarks."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_devkit.simulators.common.times import now
from managed_session_devkit.simulators.e2b.crashes import crash
from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.faults import FaultRequest, Faults
from managed_session_devkit.simulators.e2b.ledger import Ledger
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle
from managed_session_devkit.simulators.e2b.sandbox import Sandbox
from managed_session_devkit.simulators.e2b.settings import Settings
from managed_session_devkit.simulators.e2b.templates import Templates


class SimulatorRoutes:
    """Handlers that need no credentials, because the server listens only on the loopback address."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        templates: Templates,
        faults: Faults,
        ledger: Ledger,
        apply_settings: Callable[[Settings], None],
    ) -> None:
        self._lifecycle = lifecycle
        self._templates = templates
        self._faults = faults
        self._ledger = ledger
        self._apply_settings = apply_settings

    def routes(self) -> list[Route]:
        """All routes."""
        base = "/_simulator"
        one = base + "/sandboxes/{sandbox_id}"
        return [
            Route(base + "/ledger", self._get_ledger, methods=["GET"]),
            Route(base + "/ledger", self._clear_ledger, methods=["DELETE"]),
            Route(base + "/settings", self._get_settings, methods=["GET"]),
            Route(base + "/settings", self._patch_settings, methods=["PATCH"]),
            Route(base + "/faults", self._add_fault, methods=["POST"]),
            Route(base + "/faults", self._get_faults, methods=["GET"]),
            Route(base + "/faults", self._clear_faults, methods=["DELETE"]),
            Route(base + "/templates", self._get_templates, methods=["GET"]),
            Route(base + "/templates/{template_id}", self._delete_template, methods=["DELETE"]),
            Route(base + "/sandboxes", self._get_sandboxes, methods=["GET"]),
            Route(base + "/sandboxes", self._add_paused, methods=["POST"]),
            Route(one, self._get_sandbox, methods=["GET"]),
            Route(one + "/vanish", self._vanish, methods=["POST"]),
            Route(one + "/wedge", self._wedge, methods=["POST"]),
            Route(one + "/crash", self._crash, methods=["POST"]),
            Route(one + "/expire", self._expire, methods=["POST"]),
            Route(one + "/hide", self._hide, methods=["POST"]),
            Route(one + "/duplicate", self._duplicate, methods=["POST"]),
            Route(one + "/lose-files", self._lose_files, methods=["POST"]),
            Route(one + "/signal", self._signal, methods=["POST"]),
            Route(one + "/cut", self._cut, methods=["POST"]),
        ]

    async def _get_ledger(self, request: Request) -> Response:
        query = request.query_params
        running = self._lifecycle.admission.concurrent
        return JSONResponse(
            self._ledger.as_json(
                operation=query.get("operation"), sandbox_id=query.get("sandboxID"), running=running
            )
        )

    async def _clear_ledger(self, _: Request) -> Response:
        self._ledger.clear(self._lifecycle.admission.concurrent)
        return Response(status_code=204)

    async def _get_settings(self, _: Request) -> Response:
        return JSONResponse(self._lifecycle.settings.model_dump(mode="json"))

    async def _patch_settings(self, request: Request) -> Response:
        try:
            settings = self._lifecycle.settings.patched(await request.json())
        except (ValidationError, ValueError, TypeError) as error:
            return _bad_request(error)
        self._apply_settings(settings)
        return JSONResponse(settings.model_dump(mode="json"))

    async def _add_fault(self, request: Request) -> Response:
        try:
            fault = self._faults.request(FaultRequest.model_validate(await request.json()))
        except ValueError as error:
            return _bad_request(error)
        return JSONResponse(fault.as_json(), 201)

    async def _get_faults(self, _: Request) -> Response:
        return JSONResponse([fault.as_json() for fault in self._faults.faults])

    async def _clear_faults(self, _: Request) -> Response:
        self._faults.clear()
        return Response(status_code=204)

    async def _get_templates(self, _: Request) -> Response:
        return JSONResponse(self._templates.as_json())

    async def _delete_template(self, request: Request) -> Response:
        try:
            self._templates.delete(request.path_params["template_id"])
        except ApiError as error:
            return error.response()
        return Response(status_code=204)

    async def _get_sandboxes(self, request: Request) -> Response:
        states = set(filter(None, (request.query_params.get("state") or "").split(",")))
        chosen = [
            sandbox for sandbox in self._lifecycle.sandboxes.values() if not states or sandbox.state in states
        ]
        return JSONResponse([_described(sandbox) for sandbox in chosen])

    async def _add_paused(self, request: Request) -> Response:
        body = await _json(request)
        try:
            added = [
                self._lifecycle.add_paused(str(body.get("template")), dict(metadata))
                for metadata in body.get("metadata", [])
            ]
        except ApiError as error:
            return error.response()
        return JSONResponse([sandbox.id for sandbox in added], 201)

    async def _get_sandbox(self, request: Request) -> Response:
        sandbox = self._find(request)
        return _unknown(request) if sandbox is None else JSONResponse(_described(sandbox))

    async def _vanish(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None:
            return _unknown(request)
        await self._lifecycle.vanish(sandbox)
        return Response(status_code=204)

    async def _wedge(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None or sandbox.state != "running":
            return _unknown(request)
        sandbox.wedged = True
        sandbox.drop_connections()
        return Response(status_code=204)

    async def _crash(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None or sandbox.state != "running":
            return _unknown(request)
        await crash(sandbox)
        return Response(status_code=204)

    async def _expire(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None or sandbox.state != "running":
            return _unknown(request)
        self._lifecycle.expire(sandbox)
        return Response(status_code=204)

    async def _hide(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None:
            return _unknown(request)
        body = await _json(request)
        sandbox.hidden_until = now() + timedelta(seconds=float(body.get("seconds", 3600)))
        return Response(status_code=204)

    async def _duplicate(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None:
            return _unknown(request)
        sandbox.duplicates = int((await _json(request)).get("times", 1))
        return Response(status_code=204)

    async def _lose_files(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None or sandbox.runtime is None or not sandbox.runtime.process.alive:
            return _unknown(request)
        path = str((await _json(request)).get("path", "/mnt/session"))
        await sandbox.runtime.process.request("file", action="empty", path=path)
        return Response(status_code=204)

    async def _signal(self, request: Request) -> Response:
        sandbox = self._find(request)
        if sandbox is None:
            return _unknown(request)
        body = await _json(request)
        try:
            number = signal.Signals[str(body.get("signal", "SIGKILL"))]
        except KeyError as error:
            return _bad_request(error)
        wanted, chosen = str(body.get("contains", "")), body.get("hostPIDs")
        reached = []
        for process in _host_processes(sandbox):
            if wanted in process["command"] and (chosen is None or process["hostPID"] in chosen):
                with suppress(ProcessLookupError):
                    os.kill(process["hostPID"], number)
                    reached.append(process["hostPID"])
        return JSONResponse({"reached": reached})

    async def _cut(self, request: Request) -> Response:
        """Lose the connections of a sandbox and of its clients, silently."""
        sandbox = self._find(request)
        if sandbox is None or sandbox.runtime is None or not sandbox.runtime.process.alive:
            return _unknown(request)
        clients = len(sandbox.connections)
        sandbox.drop_connections(silently=True)
        return JSONResponse({"inside": await sandbox.runtime.process.cut_silently(), "clients": clients})

    def _find(self, request: Request) -> Sandbox | None:
        return self._lifecycle.sandboxes.get(request.path_params["sandbox_id"])


async def _json(request: Request) -> dict[str, Any]:
    raw = await request.body()
    parsed: dict[str, Any] = await request.json() if raw else {}
    return parsed


def _bad_request(error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _unknown(request: Request) -> Response:
    return JSONResponse({"error": f"no such sandbox in that state: {request.path_params['sandbox_id']}"}, 404)


def _described(sandbox: Sandbox) -> dict[str, Any]:
    return {**sandbox.control_json(), "processes": _host_processes(sandbox)}


def _host_processes(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return the processes below the sandbox's init, with PIDs on the host and inside, and command lines."""
    init = sandbox.runtime.process.host_pid if sandbox.runtime and sandbox.runtime.process.alive else None
    if init is None:
        return []
    found = []
    waiting = [init]
    while waiting:
        pid = waiting.pop()
        children = _children(pid)
        waiting.extend(children)
        for child in children:
            with suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                if command[0].startswith(b"sshd:"):
                    continue  # belongs to the machine, as systemd would
                status = Path(f"/proc/{child}/status").read_text()
                inside = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
                state = next(line for line in status.splitlines() if line.startswith("State:")).split()[1]
                found.append(
                    {
                        "hostPID": child,
                        "pid": int(inside),
                        "state": state,
                        "command": b" ".join(command).decode(errors="replace"),
                    }
                )
    return found


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
