"""The user's terminal while a shell in a sandbox has it: each key and each change of size is passed on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_CHUNK_BYTES = 4096


@dataclass(frozen=True)
class Size:
    """Of a terminal."""

    rows: int
    columns: int


def is_terminal() -> bool:
    """Return whether a person types and reads here."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def size() -> Size:
    """Return the terminal's size."""
    # Not by COLUMNS and LINES, which an earlier program may have exported.
    found = os.get_terminal_size(sys.stdout.fileno())
    return Size(found.lines, found.columns)


@contextmanager
def raw() -> Iterator[None]:
    """Have the terminal pass on every key as it is, and set it back at the end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def keys() -> AsyncIterator[bytes]:
    """Yield what is typed, until the terminal is closed."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    typed: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except OSError:
            chunk = b""
        if not chunk:
            loop.remove_reader(descriptor)
        typed.put_nowait(chunk)

    loop.add_reader(descriptor, read)
    try:
        while chunk := await typed.get():
            yield chunk
    finally:
        loop.remove_reader(descriptor)


async def sizes() -> AsyncIterator[Size]:
    """Yield the size whenever it changes."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while await changed.wait():
            changed.clear()
            yield size()
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


def write(data: bytes) -> None:
    """Write to the terminal, or wherever the output goes."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
