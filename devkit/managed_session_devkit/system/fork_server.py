"""Starts programs of the local system by forking a process that has imported them already.

An operator spends two seconds of CPU on its imports. A test run starts hundreds of operators, so its systems
start them from here. `managed-sessions local`, the demo and the image start them by their console scripts.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from managed_session_devkit.control_plane.processes import dying_with_this_process
from managed_session_devkit.simulators.e2b.host import SHARED_ZYGOTE, zygote_command, zygote_environment
from managed_session_devkit.simulators.e2b.namespace import messages
from managed_session_devkit.simulators.e2b.settings import Settings
from managed_session_devkit.system.environment import base_environment

_SCRIPTS = {
    "managed-session-webhook": "managed_session_webhook.main",
    "managed-session-operator": "managed_session_operator.main",
}
"""The modules whose `main` the console scripts run."""
_SIMULATORS = "managed_session_devkit.simulators."
_E2B = f"{_SIMULATORS}e2b.__main__"


class ForkedProcess:
    """A forked child, as `asyncio.subprocess.Process` shows one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        return await asyncio.shield(self._ended)

    def end(self, code: int) -> None:
        """Note the exit code."""
        self._ended.set_result(code)


class _Program:
    """The process that has imported one program."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._children: dict[int, ForkedProcess] = {}
        self._starting = asyncio.Lock()
        self._numbers = itertools.count()
        self._requests: dict[int, asyncio.Future[ForkedProcess]] = {}
        """Requests that are not answered yet, by their numbers."""
        self._process: asyncio.subprocess.Process | None = None

    async def start(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: int
    ) -> ForkedProcess:
        async with self._starting:
            if self._process is None:
                await self._open()
            number = next(self._numbers)
            started: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
            request = {
                "number": number,
                "arguments": [*arguments],
                "folder": str(folder),
                "environment": {**environment},
            }
            messages.send(self._control, request, [log])
            self._requests[number] = started
            try:
                await asyncio.wait([started])
            except asyncio.CancelledError:
                started.add_done_callback(_kill)
                raise
            return started.result()

    async def _open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *dying_with_this_process(),
            *(sys.executable, "-m", "managed_session_devkit.system.forked_program", self._module),
            str(self._theirs.fileno()),
            env=base_environment(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(self._theirs.fileno(),),
        )
        self._theirs.close()
        asyncio.get_running_loop().add_reader(self._control, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                received = messages.receive(self._control)
                if received is None:
                    self._gone()
                    return
                self._note(received[0])

    def _note(self, message: Mapping[str, Any]) -> None:
        if "started" in message:
            child = self._children[message["started"]] = ForkedProcess(message["started"])
            self._requests.pop(message["number"]).set_result(child)
        else:
            self._children.pop(message["ended"]).end(message["code"])

    def _gone(self) -> None:
        """Note that the process has ended, and with it its children (PR_SET_PDEATHSIG)."""
        asyncio.get_running_loop().remove_reader(self._control)
        for child in self._children.values():
            child.end(-signal.SIGKILL)
        self._children.clear()
        for started in self._requests.values():
            started.set_exception(RuntimeError(f"{self._module} was not imported, or was killed"))
        self._requests.clear()

    async def close(self) -> None:
        if self._process is not None:
            # It ends when it reads the end of the messages.
            self._control.shutdown(socket.SHUT_WR)
            await self._process.wait()
            self._gone()
            self._control.close()


def _kill(started: asyncio.Future[ForkedProcess]) -> None:
    """End a child that nobody waits for any more."""
    if started.exception() is None and started.result().returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.result().pid, signal.SIGKILL)


class _SandboxZygote:
    """The process that has imported what sandboxes begin with, for all simulators of E2B."""

    def __init__(self) -> None:
        self.name = f"managed-sessions-{uuid.uuid4()}"
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start it unless it runs. Simulators can connect at once."""
        async with self._starting:
            if self._process is not None:
                return
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(f"\0{self.name}")
                listener.listen()
                self._process = await asyncio.create_subprocess_exec(
                    *dying_with_this_process(),
                    *zygote_command(listener.fileno(), Settings().preload_modules),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(listener.fileno(),),
                    env=zygote_environment(),
                    start_new_session=True,
                )

    async def close(self) -> None:
        """End it. Its forks end with their simulators."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


class ForkServer:
    """Starts processes of the local system by a fork, each with its own environment, folder and log."""

    def __init__(self) -> None:
        self._programs: dict[str, _Program] = {}
        self._zygote = _SandboxZygote()

    async def start(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: int
    ) -> ForkedProcess | None:
        """Start the command, with its output in the open file `log`. Return None if it must be executed."""
        module, arguments = _module_of(command)
        # The programs have imported the code that this process's PYTHONPATH leads to.
        if module is None or environment.get("PYTHONPATH") != os.environ.get("PYTHONPATH"):
            return None
        if module == _E2B:
            await self._zygote.start()
            environment = {**environment, SHARED_ZYGOTE: self._zygote.name}
        program = self._programs.setdefault(module, _Program(module))
        return await program.start(arguments, folder, environment, log)

    async def close(self) -> None:
        """End all programs, which ends their children."""
        for program in self._programs.values():
            await program.close()
        self._programs.clear()
        await self._zygote.close()


def _module_of(command: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the module whose `main` the command runs, or None for unknown commands, and its arguments."""
    script = Path(command[0]).name
    if script in _SCRIPTS:
        return _SCRIPTS[script], [*command]
    if command[1:2] == ["-m"] and command[2].startswith(_SIMULATORS):
        return f"{command[2]}.__main__", [*command[2:]]
    return None, []
