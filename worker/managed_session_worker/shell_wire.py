"""What worker, shell host and supervisor send each other: frames, connections, and a shared record.

A frame is a length (4 bytes) and a JSON document. Between worker and shell host, each request has an `id` and
gets one answer with it.
"""

import asyncio
import json
import mmap
import struct
from typing import Any

MAX_FRAME_BYTES = 64 * 1024 * 1024
RECORD_BYTES = 64 * 1024
_LENGTH = struct.Struct("!I")
RELEASE = b"release"
"""The supervisor's message to the host: end what the worker has asked for, and forget that worker."""
RELEASED = b"released"
CONNECTION = b"connection"
"""A message with a descriptor: a new worker's connection to the host, sent to both."""

Document = dict[str, Any]
READY: Document = {"ready": True}
"""The host's first frame on each connection."""


def frame(document: Document) -> bytes:
    """Return the bytes of one frame."""
    data = json.dumps(document).encode()
    return _LENGTH.pack(len(data)) + data


async def read_frame(reader: asyncio.StreamReader) -> Document | None:
    """Read one frame; None at the end of the connection, or if it is cut or malformed."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            return None
        document = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


class SharedRecord:
    """A small record that the host writes and the supervisor reads, even when the host is stopped or dead.

    It is in memory that both share and that no other process can open. Of two halves, the first byte names
    the valid one, so a host that is killed while it writes leaves the record before.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 + 2 * RECORD_BYTES)

    def write(self, document: Document) -> None:
        """Replace the record. One that is too long is left out: the record before stays."""
        data = json.dumps(document).encode()
        if len(data) + _LENGTH.size > RECORD_BYTES:
            return
        half = 1 - self._memory[0]
        start = 1 + half * RECORD_BYTES
        self._memory[start : start + _LENGTH.size + len(data)] = _LENGTH.pack(len(data)) + data
        self._memory[0] = half

    def read(self) -> Document:
        """Return the record; empty before the first `write`."""
        start = 1 + self._memory[0] * RECORD_BYTES
        (length,) = _LENGTH.unpack_from(self._memory, start)
        found: Document = json.loads(self._memory[start + 4 : start + 4 + length]) if length else {}
        return found

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
