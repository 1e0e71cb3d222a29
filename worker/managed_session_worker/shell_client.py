"""The worker's way to the agent's shells, which belong to the shell host (`shell_host`)."""

import asyncio
import itertools
import socket
from collections.abc import Callable

from managed_session_worker.awake_time import within
from managed_session_worker.shell_wire import Document, frame, read_frame
from managed_session_worker.worker_log import logger

CONNECT_SECONDS = 30.0
"""How long the supervisor may take to start a shell host and to send a connection to it."""
GRACE_SECONDS = 20.0
"""How long a host may take to answer, beyond the time of the command. After that it counts as hung."""

_ENDED = "the process that ran it has ended"


class ShellsLostError(Exception):
    """The shell host has ended or hangs, and with it all shells; the text says which, for people."""


class ShellClient:
    """Asks the shell host, and the supervisor for another host if that one is gone."""

    def __init__(self, channel: socket.socket, wanted: Callable[[bool], None]) -> None:
        """Take the socket on which the supervisor sends connections.

        Args:
            channel: Gets one connection at the worker's start, and one for each call of `wanted`.
            wanted: Asks for another connection; gets whether the present host hangs.
        """
        channel.setblocking(False)
        self._channel = channel
        self._wanted = wanted
        self._connecting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._hangs = False
        self._connection: _Connection | None = None
        self._endings: set[asyncio.Task[None]] = set()

    async def ask(self, request: Document, seconds: float = 0.0) -> Document:
        """Send one request and return its answer.

        Cancelling this ends the request's command.

        Args:
            request: What the host is to do.
            seconds: How long its command may take.

        Raises:
            ShellsLostError: There was no host to ask, or it ended or hung before it answered.
        """
        try:
            connection = await within(CONNECT_SECONDS, self._connected())
        except TimeoutError:
            self._wanted(False)
            raise ShellsLostError("no shell could be started") from None
        number = next(self._numbers)
        try:
            return await within(seconds + GRACE_SECONDS, connection.ask({**request, "id": number}))
        except TimeoutError:
            self._give_up(connection)
            raise ShellsLostError("the process that ran it did not answer") from None
        except asyncio.CancelledError:
            ending = asyncio.get_running_loop().create_task(self._cancel(connection, number))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            raise

    async def _cancel(self, connection: "_Connection", number: int) -> None:
        try:
            await within(GRACE_SECONDS, connection.ask({"do": "cancel", "id": number}))
        except TimeoutError:
            self._give_up(connection)
        except ShellsLostError:
            return

    def _give_up(self, connection: "_Connection") -> None:
        logger.warning("the shell host does not answer")
        self._hangs = self._hangs or connection.alive
        connection.close()

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            while self._connection is None or not self._connection.alive:
                if self._connection is not None:
                    self._wanted(self._hangs)
                    self._hangs = False
                self._connection = await _Connection.open(await self._receive())
            return self._connection

    async def _receive(self) -> socket.socket:
        """Wait for a connection from the supervisor."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._channel, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._channel)
        _, descriptors, _, _ = socket.recv_fds(self._channel, 64, 1)
        if not descriptors:
            raise ShellsLostError("the supervisor has ended")
        return socket.socket(fileno=descriptors[0])


class _Connection:
    """One connection to one host."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._pending: dict[int, asyncio.Future[Document]] = {}
        self.alive = True
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def open(cls, connected: socket.socket) -> "_Connection":
        """Use a connected socket, and wait until the host is ready or gone."""
        reader, writer = await asyncio.open_unix_connection(sock=connected)
        ready = await read_frame(reader)
        connection = cls(reader, writer)
        if ready is None:
            connection.close()
        return connection

    async def ask(self, request: Document) -> Document:
        """Send a request, and wait for the answer with its `id`."""
        if not self.alive:
            raise ShellsLostError(_ENDED)
        answer: asyncio.Future[Document] = asyncio.get_running_loop().create_future()
        self._pending[request["id"]] = answer
        try:
            self._writer.write(frame(request))
            await self._writer.drain()
        except OSError:
            logger.info("the shell host has gone before it was asked")
        return await answer

    async def _read(self) -> None:
        while (answer := await read_frame(self._reader)) is not None:
            waiting = self._pending.pop(answer.get("id", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        self.close()

    def close(self) -> None:
        """Hang up. Whoever still waits learns that the host is lost."""
        self.alive = False
        self._writer.close()
        self._reading.cancel()
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(ShellsLostError(_ENDED))
        self._pending.clear()
