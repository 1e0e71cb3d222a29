"""Loses the network for a while: open connections die, and new ones fail."""

import asyncio
import ctypes
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from managed_session_devkit.simulators.common.silent_connections import silence

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_RETURN: Final = 0x06
"""The BPF instruction that ends a filter. With 0 it drops the packet (socket(7), SO_ATTACH_FILTER)."""


class NetworkLoss:
    """Loses the network of the server with this listening socket."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._back: asyncio.TimerHandle | None = None

    def lose(self, transports: Iterable[asyncio.Transport], seconds: float, *, reset: bool = False) -> int:
        """Kill these connections, and refuse new ones for `seconds`. Return how many were killed.

        With `reset` the peers get a reset, as when a load balancer is replaced. Otherwise they notice
        nothing.
        """
        if seconds > 0:
            self._drop_new_ones()
            if self._back is not None:
                self._back.cancel()
            self._back = asyncio.get_running_loop().call_later(seconds, self._take_new_ones)
        lost = 0
        for transport in transports:
            if reset:
                transport.abort()
                lost += 1
                continue
            with suppress(OSError):
                lost += silence(transport.get_extra_info("socket"))
        return lost

    def _drop_new_ones(self) -> None:
        instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, 0))
        program = struct.pack("HL", 1, ctypes.addressof(instruction))
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def _take_new_ones(self) -> None:
        self._back = None
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
