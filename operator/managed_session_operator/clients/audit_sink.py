"""Appends the audit's records to a file, or writes them to standard output."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from managed_session_api.audit import CHAIN_STARTED, Chain, InvalidRecordError, parse

from managed_session_operator.domain.ports import Clock

logger = logging.getLogger(__name__)

_TAIL_BYTES = 65_536
"""More than the longest record."""


class AuditSink:
    """Writes records to a descriptor, one line each, in order. Belongs to one event loop.

    A record that cannot be written is counted. The next one that can be begins a new chain, which says how
    many are lost.

    Args:
        descriptor: where to write; a file is opened to append.
        clock: the time.
        who: returns the fields that each record has: the operator and its epoch.
        on_lost: called when a record could not be written.
        is_file: whether to continue the chain at the end of what is there.
    """

    def __init__(
        self,
        descriptor: int,
        clock: Clock,
        who: Callable[[], Mapping[str, Any]],
        on_lost: Callable[[], None],
        *,
        is_file: bool,
    ) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._who = who
        self._on_lost = on_lost
        self._is_file = is_file
        self._lost = 0
        self._chain: Chain | None = None

    def append(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write a record. A failure is logged and counted, because no session should suffer from it."""
        try:
            if self._chain is None:
                self._start()
            self._write(event, fields)
        except OSError as error:
            self._lost += 1
            self._on_lost()
            logger.error("audit record lost", extra={"event": event, "cause": error.strerror})  # noqa: TRY400

    def _start(self) -> None:
        """Begin a chain. In a file, its first record names the newest one before it."""
        tail = _tail(self._descriptor) if self._is_file else b""
        before, torn = _newest(tail), bool(tail) and not tail.endswith(b"\n")
        chain = Chain(uuid.uuid4().hex)
        continues = None
        if before is not None:
            continues = {"chain": before["chain"], "sequence": before["sequence"]}
            chain.previous = before["hash"]
        if torn:
            os.write(self._descriptor, b"\n")
        self._chain = chain
        self._write(CHAIN_STARTED, {"continues": continues, "torn": torn or None, "lost": self._lost or None})
        self._lost = 0

    def _write(self, event: str, fields: Mapping[str, Any]) -> None:
        chain, self._chain = self._chain, None
        if chain is None:
            raise RuntimeError("no chain has begun")
        line = chain.seal(event, self._clock.now(), {**self._who(), **fields})
        data = f"{line}\n".encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        chain.wrote(line)
        self._chain = chain  # Only now: after a failure, the next record begins a new one.


def open_sink(
    where: str, clock: Clock, who: Callable[[], Mapping[str, Any]], on_lost: Callable[[], None]
) -> AuditSink:
    """Open the audit: `stdout`, or the path of a file, which is made if it does not exist.

    Raises:
        OSError: the file cannot be opened.
    """
    if where == "stdout":
        return AuditSink(1, clock, who, on_lost, is_file=False)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return AuditSink(os.open(where, flags, 0o600), clock, who, on_lost, is_file=True)


def _tail(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))


def _newest(tail: bytes) -> Mapping[str, Any] | None:
    """Return the newest record that is whole."""
    for line in reversed(tail.split(b"\n")):
        try:
            return parse(line.decode(errors="replace"))
        except InvalidRecordError:
            continue
    return None
