"""Messages with file descriptors over a SEQPACKET Unix socket: one JSON object per packet."""

import array
import json
import os
import socket
from typing import Any, Final

_INLINE_BYTES: Final = 60_000  # longer messages travel in a memory file, because wmem_max limits packets
_MAX_DESCRIPTORS: Final = 8


def pack(message: dict[str, Any], descriptors: list[int]) -> tuple[bytes, list[int], int | None]:
    """Return the packet of a message: (bytes, descriptors, memory file to close after sending or None)."""
    encoded = json.dumps(message, separators=(",", ":")).encode()
    if len(encoded) <= _INLINE_BYTES:
        return encoded, descriptors, None
    memory = os.memfd_create("message")
    view = memoryview(encoded)
    while view:
        view = view[os.write(memory, view) :]
    return b'{"in_memory_file":true}', [*descriptors, memory], memory


def send_packet(connection: socket.socket, packet: bytes, descriptors: list[int]) -> None:
    """Send one packet. Raises OSError (BlockingIOError if the socket is non-blocking and full)."""
    ancillary = []
    if descriptors:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors)))
    connection.sendmsg([packet], ancillary)


def send(connection: socket.socket, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
    """Send one message on a blocking socket. The descriptors stay open here."""
    packet, all_descriptors, memory = pack(message, descriptors or [])
    try:
        send_packet(connection, packet, all_descriptors)
    finally:
        if memory is not None:
            os.close(memory)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message and its descriptors, which the caller closes, or None if the peer is gone."""
    try:
        packet, descriptors, _, _ = socket.recv_fds(connection, _INLINE_BYTES + 4096, _MAX_DESCRIPTORS)
    except ConnectionResetError:
        return None
    if not packet:
        return None
    message: dict[str, Any] = json.loads(packet)
    if message.get("in_memory_file"):
        memory = descriptors.pop()
        with os.fdopen(memory, "rb") as stream:
            stream.seek(0)
            message = json.load(stream)
    return message, descriptors
