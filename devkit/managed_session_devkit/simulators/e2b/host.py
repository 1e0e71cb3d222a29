"""Talks to the zygote and to each sandbox's init, with asyncio over SEQPACKET Unix sockets."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from managed_session_devkit.simulators.e2b.namespace import messages

_log = logging.getLogger(__name__)
_BIRTH_TIMEOUT_SECONDS: Final = 60.0
_REQUEST_TIMEOUT_SECONDS: Final = 60.0
_KILL_TIMEOUT_SECONDS: Final = 10.0
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from managed_session_devkit.simulators.e2b.namespace import zygote; "
    "zygote.main(int(sys.argv[2]), sys.argv[3], sys.argv[4:])"
)


class SandboxHostError(Exception):
    """This machine cannot do what a sandbox needs. The text says what."""


class FileOperationError(SandboxHostError):
    """A file operation inside a sandbox failed. `number` is its errno."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class Channel:
    """A non-blocking SEQPACKET socket. It sends packets, and calls back for each message received."""

    def __init__(
        self,
        connection: socket.socket,
        on_message: Callable[[dict[str, Any], list[int]], None],
        on_closed: Callable[[], None],
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._read)
        self._closed = False

    def _read(self) -> None:
        while not self._closed:
            try:
                received = messages.receive(self._connection)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self.close()
                self._on_closed()
                return
            self._on_message(*received)

    async def send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Send a message. The caller keeps its descriptors open. Raises SandboxHostError if closed."""
        packet, attached, memory = messages.pack(message, descriptors)
        try:
            while True:
                if self._closed:
                    raise SandboxHostError("the sandbox is gone")
                try:
                    messages.send_packet(self._connection, packet, attached)
                    return
                except BlockingIOError:
                    await asyncio.sleep(0.002)
                except OSError as error:
                    raise SandboxHostError("the sandbox is gone") from error
        finally:
            if memory is not None:
                os.close(memory)

    def close(self) -> None:
        """Close this end. May be called twice."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._connection.fileno())
            self._connection.close()


@dataclass(frozen=True)
class Machine:
    """A sandbox's machine: the size of its disk (None: the host's), how far its clock is ahead, FUSE."""

    disk_megabytes: int | None = None
    clock_offset_seconds: int = 0
    fuse: bool = False


@dataclass(frozen=True)
class Disk:
    """A new sandbox's files: a directory to copy, except the trees in it that all share read-only.

    Programs of the host in `hidden` cannot be run inside.
    """

    layer: Path
    shared: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


class SandboxProcess:
    """Controls the processes of one sandbox through their PID 1."""

    def __init__(self, connection: socket.socket, root: Path) -> None:
        self.root = root
        self.host_pid: int | None = None
        self.on_exit: Callable[[int, int], None] = lambda _pid, _code: None
        self.on_gone: Callable[[], None] = lambda: None
        self._replies: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._next_id = 0
        self._mounted = False
        self._pidfd: int | None = None
        self._born: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self._channel = Channel(connection, self._received, self._closed)

    def _received(self, message: dict[str, Any], descriptors: list[int]) -> None:
        event = message.get("event")
        if event is None:
            waiting = self._replies.pop(int(message["id"]), None)
            if waiting is not None and not waiting.done():
                waiting.set_result((message, descriptors))
                return
            for descriptor in descriptors:
                os.close(descriptor)
        elif event == "born":
            self.host_pid = int(message["pid"])
            if self.host_pid:  # 0: a stub, which is no process
                with suppress(ProcessLookupError):
                    self._pidfd = os.pidfd_open(self.host_pid)
            self._check_born()
        elif event == "ready":
            self._mounted = True
            self._check_born()
        elif event == "failed" and not self._born.done():
            self._born.set_exception(SandboxHostError(f"cannot set a sandbox up: {message['message']}"))
        elif event == "exited":
            self.on_exit(int(message["pid"]), int(message["code"]))

    @property
    def alive(self) -> bool:
        """Whether its PID 1 runs."""
        return not self._gone.is_set()

    def _check_born(self) -> None:
        if self._mounted and self.host_pid is not None and not self._born.done():
            self._born.set_result(None)

    def _closed(self) -> None:
        self._gone.set()
        error = SandboxHostError("the sandbox is gone")
        if not self._born.done():
            self._born.set_exception(error)
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(error)
        self._replies.clear()
        self.on_gone()

    async def wait_born(self) -> None:
        """Wait until its root is mounted and its PID known. Raises SandboxHostError."""
        async with asyncio.timeout(_BIRTH_TIMEOUT_SECONDS):
            await self._born

    async def request(
        self,
        operation: str,
        descriptors: list[int] | None = None,
        **fields: Any,
    ) -> tuple[dict[str, Any], list[int]]:
        """Send a request to PID 1, and return its reply. Raises FileOperationError, SandboxHostError."""
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            await self._channel.send({"id": number, "operation": operation, **fields}, descriptors or [])
            async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
                reply, attached = await future
        finally:
            self._replies.pop(number, None)
        if "error" in reply:
            raise FileOperationError(int(reply.get("errno") or 0), str(reply["error"]))
        return reply, attached

    async def freeze(self, *, sever_connections: bool, silently: bool) -> int:
        """Stop every process. Return how many TCP connections were reset or silenced."""
        reply, _ = await self.request("freeze", sever=sever_connections, silently=silently)
        return int(reply["severed"])

    async def cut_silently(self) -> int:
        """Silence the TCP connections that the sandbox has. Return how many there were."""
        reply, _ = await self.request("cut")
        return int(reply["severed"])

    async def mount_volume(self, volume: str, path: str) -> None:
        """Mount a volume, by the name of its directory. Raises SandboxHostError."""
        await self.request("volume", volume=volume, path=path)

    async def thaw(self) -> None:
        """Let every process continue."""
        await self.request("thaw")

    async def kill(self) -> None:
        """Kill PID 1, so that the kernel kills everything in its namespace. Return when all is gone."""
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            try:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                async with asyncio.timeout(_KILL_TIMEOUT_SECONDS):
                    await _readable(pidfd)
            except TimeoutError:
                _log.warning("process %s did not end", self.host_pid)
            finally:
                os.close(pidfd)
        if not self._gone.is_set():
            self._closed()
        self._channel.close()


async def _readable(descriptor: int) -> None:
    """Wait until the descriptor is readable: a pidfd is when its process and PID namespace have ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


SHARED_ZYGOTE: Final = "MANAGED_SESSIONS_SIMULATOR_ZYGOTE"
"""Variable with the abstract name of the socket of a zygote that simulators share, to save the imports."""


def zygote_command(descriptor: int, preload: Sequence[str]) -> list[str]:
    """Return the command that serves on the inherited socket `descriptor`, with these modules imported."""
    package_parent = str(Path(__file__).parents[3])
    return [sys.executable, "-I", "-c", _PROGRAM, package_parent, str(descriptor), "outside", *preload]


def zygote_environment() -> dict[str, str]:
    """Return all variables of a zygote."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class Zygote:
    """The fork server: one for each set of modules that start commands share."""

    def __init__(self, preload: tuple[str, ...] = ()) -> None:
        self._preload = preload
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._ready: asyncio.Future[dict[str, Any]] | None = None
        self._starting = asyncio.Lock()
        self.privileged = False

    async def start(self) -> None:
        """Start it unless it runs, and wait until it can fork. Raises SandboxHostError with what to do."""
        async with self._starting:
            if self._channel is not None:
                return
            message = await self._start_shared() or await self._start_own()
            if message["event"] == "failed":
                raise SandboxHostError(str(message["message"]))
            self.privileged = bool(message["privileged"])
            for failure in message["preload_failures"]:
                _log.warning("module not preloaded for start commands: %s", failure)

    async def _start_shared(self) -> dict[str, Any] | None:
        """Return the first message of the shared zygote, if there is one with the same modules."""
        name = os.environ.get(SHARED_ZYGOTE)
        if name is None or not self._preload:
            return None
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.connect(f"\0{name}")
            message = await self._first_message(ours)
        except (OSError, SandboxHostError):
            ours.close()
            return None
        if tuple(message["preload"]) != self._preload:
            await self.stop()
            return None
        return message

    async def _start_own(self) -> dict[str, Any]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = await asyncio.create_subprocess_exec(
            *zygote_command(theirs.fileno(), self._preload),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env=zygote_environment(),
            start_new_session=True,
        )
        theirs.close()
        return await self._first_message(ours)

    async def _first_message(self, control: socket.socket) -> dict[str, Any]:
        self._ready = asyncio.get_running_loop().create_future()
        self._channel = Channel(control, self._received, self._closed)
        async with asyncio.timeout(_BIRTH_TIMEOUT_SECONDS):
            return await self._ready

    def _received(self, message: dict[str, Any], _: list[int]) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(message)

    def _closed(self) -> None:
        self._channel = None
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(SandboxHostError("the process that forks sandboxes ended early"))

    async def spawn(
        self,
        root: Path,
        disk: Disk,
        windows: list[str],
        machine: Machine,
        *,
        populate: bool,
        volumes: Path | None = None,
    ) -> SandboxProcess:
        """Start a sandbox in the directory `root`.

        Volumes in the directory `volumes` may be mounted in it. With `populate`, fill it from `disk` first.
        Raises SandboxHostError.
        """
        await self.start()
        assert self._channel is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = SandboxProcess(ours, root)
        try:
            config = {
                "root": str(root),
                "layer": str(disk.layer),
                "shared": list(disk.shared),
                "hidden": list(disk.hidden),
                "populate": populate,
                "windows": windows,
                "volumes": None if volumes is None else str(volumes),
                **asdict(machine),
            }
            await self._channel.send(config, [theirs.fileno()])
        finally:
            theirs.close()
        try:
            await process.wait_born()
        except BaseException:
            await process.kill()
            raise
        return process

    async def stop(self) -> None:
        """Stop it. Running sandboxes continue."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None
