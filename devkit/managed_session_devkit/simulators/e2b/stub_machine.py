"""The machine of a sandbox without processes, which a simulator with the setting `stub_workers` uses.

It answers on the socket on which the first process of a sandbox would. Files are real. Of programs, it knows
the supervisor's command; any other ends at once with exit status 0, and a start command never ends.
"""

import asyncio
import json
import os
import re
import socket
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final

from managed_session_devkit.simulators.e2b.host import Channel, SandboxProcess
from managed_session_devkit.simulators.e2b.namespace import files
from managed_session_devkit.simulators.e2b.stub_worker import StubSupervisor

_COMMAND: Final = re.compile(r"\$supervisorctl (?P<name>start|watch|stop) (?P<claim>[\w.:+-]+)")
_REQUEST: Final = re.compile(r'stat -c %s (?P<file>\S+) 2>/dev/null\)" = (?P<size>\d+) ')
"""The file in which a request arrives, and its size once it is whole."""
_LOOK_AGAIN_SECONDS: Final = 0.01
_REQUEST_SECONDS: Final = 10.0
_STUB_PID: Final = 0
"""What it reports as its PID: no process."""


class StubMachine:
    """Plays the processes of one sandbox."""

    def __init__(self, root: Path, connection: socket.socket, start_command: str) -> None:
        self._root = root
        self._start_command = start_command
        self._running = asyncio.Event()
        self._running.set()
        self._supervisor = StubSupervisor(self._running)
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_pid = 1
        self._channel = Channel(connection, self._received, self._closed)

    @classmethod
    async def spawn(cls, root: Path, directory: str, start_command: str) -> SandboxProcess:
        """Make the machine of a sandbox with files in `root`. Return what controls it."""
        for path in ("home/user", "root", "tmp", directory.lstrip("/")):
            (root / path).mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = SandboxProcess(ours, root)
        machine = cls(root, theirs, start_command)
        await machine._channel.send({"event": "born", "pid": _STUB_PID}, [])
        await machine._channel.send({"event": "ready"}, [])
        await process.wait_born()
        return process

    def _received(self, request: dict[str, Any], descriptors: list[int]) -> None:
        self._spawn(self._answer(request, descriptors))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _closed(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._spawn(self._supervisor.close())

    async def _answer(self, request: dict[str, Any], descriptors: list[int]) -> None:
        reply, attached = dict[str, Any](), list[int]()
        try:
            match request["operation"]:
                case "file":
                    reply, attached = self._file(request)
                case "run":
                    reply = self._run(request, descriptors)
                    descriptors = []
                case "freeze" | "cut":
                    if request["operation"] == "freeze":
                        self._running.clear()
                    reply = {"severed": 0}
                case "thaw":
                    self._running.set()
        except OSError as error:
            reply = {"error": error.strerror or str(error), "errno": error.errno}
        finally:
            _close(descriptors)
        try:
            await self._channel.send({"id": request["id"], **reply}, attached)
        finally:
            _close(attached)

    def _file(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        places: dict[str, Any] = {
            name: str(self._root) + os.path.normpath(request[name])
            for name in ("path", "destination")
            if name in request
        }
        reply, attached = files.perform({**request, **places}, privileged=False)
        if "entry" in reply:
            reply["entry"]["path"] = reply["entry"]["path"].removeprefix(str(self._root))
        return reply, attached

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Start a program. Its descriptors are closed when it ends."""
        self._last_pid += 1
        self._spawn(self._play(self._last_pid, str(request["command"][-1]), descriptors))
        return {"pid": self._last_pid}

    async def _play(self, pid: int, command: str, descriptors: list[int]) -> None:
        code = 0
        try:
            if command == self._start_command:
                await asyncio.get_running_loop().create_future()
            if (wanted := _COMMAND.search(command)) is not None:
                code = await self._supervise(wanted["name"], wanted["claim"], command, descriptors[1])
        except OSError:
            code = 1  # The stream to the operator was cut.
        finally:
            _close(descriptors)
        await self._channel.send({"event": "exited", "pid": pid, "code": code}, [])

    async def _supervise(self, name: str, claim: str, command: str, output: int) -> int:
        request = await self._request(command) if name == "start" else ""
        code = 0
        async with aclosing(self._supervisor.command(name, claim, request)) as events:
            async for event in events:
                os.write(output, json.dumps(event).encode() + b"\n")
                code = int(event["event"] == "refused")
        return code

    async def _request(self, command: str) -> str:
        """Wait for the whole file of a request, remove it, and return its line. Raises OSError."""
        found = _REQUEST.search(command)
        if found is None:
            raise FileNotFoundError(command)
        file = Path(str(self._root) + found["file"].strip("'"))
        async with asyncio.timeout(_REQUEST_SECONDS):
            while (line := _taken(file, int(found["size"]))) is None:  # noqa: ASYNC110 - a file
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return line


def _taken(file: Path, size: int) -> str | None:
    """Remove a file that has this size, and return what was in it. Otherwise return None."""
    with suppress(FileNotFoundError):
        if file.stat().st_size == size:
            line = file.read_text()
            file.unlink()
            return line
    return None


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
