"""Free TCP ports of this machine."""

import random
import socket
from collections import deque

_PORTS = range(20_000, 32_000)
"""Below the ports of outgoing connections, so that a port stays free while its server restarts."""
_RESERVED = 200
_reservations: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a free port of 127.0.0.1 that nobody else gets from this function.

    A server may start on it later, and restart. The port is reserved until this process ends or has got 200
    others.

    Raises:
        OSError: no port is free.
    """
    for port in random.sample(_PORTS, min(200, len(_PORTS))):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if _reserve(port):
                return port
    raise OSError(f"no free TCP port from {_PORTS.start} to {_PORTS.stop - 1} on 127.0.0.1")


def _reserve(port: int) -> bool:
    """Reserve the port among all processes by a name that ends with this one. Return whether it was free."""
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0managed-sessions-port-{port}")
    except OSError:
        reservation.close()
        return False
    _reservations.append(reservation)
    if len(_reservations) > _RESERVED:
        _reservations.popleft().close()
    return True
