"""Serves the supervisor's Unix socket: one JSON line in, event lines out. No TCP port, no threads."""

import json
import logging
import os
import selectors
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from managed_session_worker.paths import SOCKET_NAME, Paths, within_directory
from managed_session_worker.privileges import effective_capabilities
from managed_session_worker.protocol import Event, ExitReason
from managed_session_worker.wire import FINAL_EVENTS
from managed_session_worker.worker_manager import WorkerManager

MAX_REQUEST_BYTES = 512 * 1024
MAX_UNSENT_BYTES = 256 * 1024
MAX_CONNECTIONS = 64

logger = logging.getLogger(__name__)


class Connection:
    """One `supervisorctl` process. Sends what the socket takes and keeps the rest."""

    def __init__(self, server: "SupervisorSocket", peer: socket.socket) -> None:
        self._server = server
        self._unsent = b""
        self._final = False
        self.received = b""
        self.peer = peer

    def send(self, event: Event) -> None:
        """Queue one event; the final one closes the connection once it is sent."""
        if self._final:
            return
        self._final = event["event"] in FINAL_EVENTS
        self._unsent += json.dumps(event).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send as much of the queue as the peer takes."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.peer.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent, self._final = b"", True
        if (not self._unsent and self._final) or len(self._unsent) > MAX_UNSENT_BYTES:
            self._server.drop(self)
        else:
            self._server.watch(self, writing=bool(self._unsent))


class SupervisorSocket:
    """Waits for requests, reports, ended children and SIGTERM, and passes each to the `WorkerManager`."""

    def __init__(self, paths: Paths, manager: WorkerManager) -> None:
        self._paths = paths
        self._manager = manager
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._watched_reports: int | None = None
        self._stopping = False

    def run(self) -> None:
        """Serve until SIGTERM, then kill the worker and return."""
        signals, wakeup = socket.socketpair()
        for end in (signals, wakeup):
            end.setblocking(False)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, self._terminate)
        self._selector.register(signals, selectors.EVENT_READ, "signals")
        listener = self._listen()
        self._selector.register(listener, selectors.EVENT_READ, "listener")
        while not self._stopping:
            self._watch_reports()
            for key, events in self._selector.select():
                self._dispatch(key, events, signals, listener)
        self._manager.close(ExitReason.KILLED, "the supervisor was stopped by a signal")
        Path(self._paths.socket).unlink(missing_ok=True)

    def drop(self, connection: Connection) -> None:
        """Close a connection and forget its listener."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._selector.unregister(connection.peer)
            self._manager.forget(connection)
            connection.peer.close()

    def watch(self, connection: Connection, *, writing: bool) -> None:
        """Watch for input and hang-up and, if `writing`, for room to send more."""
        if connection in self._connections:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            self._selector.modify(connection.peer, wanted, connection)

    def _terminate(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        directory = os.open(self._paths.run, os.O_RDONLY | os.O_DIRECTORY)
        name = f".{SOCKET_NAME}.new"
        try:
            Path(self._paths.run, name).unlink(missing_ok=True)
            previous = os.umask(0o177)
            try:
                listener.bind(within_directory(directory, name))
            finally:
                os.umask(previous)
            listener.listen(MAX_CONNECTIONS)
            # It gets its name only once it answers: the template's ready command waits for the file.
            Path(self._paths.run, name).replace(self._paths.socket)
        finally:
            os.close(directory)
        return listener

    def _watch_reports(self) -> None:
        running = self._manager.running
        reports = running.reports if running is not None else None
        if reports == self._watched_reports:
            return
        self._forget_reports()
        if reports is not None:
            self._selector.register(reports, selectors.EVENT_READ, "reports")
            self._watched_reports = reports

    def _forget_reports(self) -> None:
        if self._watched_reports is not None:
            try:
                self._selector.unregister(self._watched_reports)
            except (KeyError, ValueError, OSError):
                logger.debug("the worker's pipe was closed already")
            self._watched_reports = None

    def _dispatch(
        self, key: selectors.SelectorKey, events: int, signals: socket.socket, listener: socket.socket
    ) -> None:
        if key.data == "signals":
            try:
                signals.recv(4096)
            except BlockingIOError:
                return
            self._with_fresh_reports(self._manager.children_changed)
        elif key.data == "listener":
            self._accept(listener)
        elif key.data == "reports":
            if self._manager.running is not None and self._manager.running.reports == key.fd:
                self._manager.read_reports()
        elif isinstance(key.data, Connection) and key.data in self._connections:
            if events & selectors.EVENT_READ:
                self._receive(key.data)
            if events & selectors.EVENT_WRITE and key.data in self._connections:
                key.data.flush()

    def _accept(self, listener: socket.socket) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        if len(self._connections) >= MAX_CONNECTIONS or not _trusted(peer):
            peer.close()
            return
        peer.setblocking(False)
        connection = Connection(self, peer)
        self._connections.add(connection)
        self._selector.register(peer, selectors.EVENT_READ, connection)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.peer.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(connection)
            return
        connection.received += data
        line, newline, _ = connection.received.partition(b"\n")
        if not newline:
            if len(connection.received) > MAX_REQUEST_BYTES:
                self.drop(connection)
            return
        connection.received = b""
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        request = document if isinstance(document, dict) else {}
        self._with_fresh_reports(lambda: self._manager.handle(request, connection))

    def _with_fresh_reports(self, action: Callable[[], None]) -> None:
        """Run an action that may replace the worker's pipe, and then watch the pipe that is in use."""
        self._forget_reports()
        action()
        self._watch_reports()


def _trusted(peer: socket.socket) -> bool:
    """Return whether the peer is as privileged as this process.

    The socket's directory already keeps other users out. This check matters where the agent's commands also
    have uid 0: they have no capabilities, or only those of a user namespace of their own.
    """
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    if uid != os.geteuid():
        return False
    if uid != 0 or pid == 0:
        return True
    try:
        same_namespace = Path(f"/proc/{pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink()
    except OSError:
        return False
    return same_namespace and not effective_capabilities("self") & ~effective_capabilities(pid)
