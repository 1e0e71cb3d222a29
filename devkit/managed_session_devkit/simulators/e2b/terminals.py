"""Pseudo terminals of commands: envd's `pty` of a start request, and the sizes that clients send."""

import fcntl
import os
import struct
import termios
from dataclasses import dataclass
from typing import Any

from managed_session_devkit.simulators.e2b.errors import ConnectError


@dataclass(frozen=True)
class TerminalSize:
    """Rows and columns."""

    rows: int
    columns: int

    @classmethod
    def in_request(cls, body: dict[str, Any]) -> "TerminalSize | None":
        """Return the size in a request; None if it asks for no terminal. Raises ConnectError."""
        if not body.get("pty"):
            return None
        size = body["pty"].get("size") or {}
        rows, columns = int(size.get("rows") or 0), int(size.get("cols") or 0)
        if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
            raise ConnectError("invalid_argument", "the terminal's size is out of range")
        return cls(rows, columns)


def open_terminal(size: TerminalSize) -> tuple[int, int]:
    """Return the two ends of a new terminal: ours, and the one of the program."""
    ours, theirs = os.openpty()
    resize_terminal(ours, size)
    return ours, theirs


def resize_terminal(descriptor: int, size: TerminalSize) -> None:
    """Change the size. The kernel tells the program."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))
