"""Free TCP ports of this machine."""

import random
import socket

_PORTS = range(20_000, 32_000)
"""Below the ports of outgoing connections, so that a port stays free while its server restarts."""


def free_port() -> int:
    """Return a free port of 127.0.0.1.

    Raises:
        OSError: no port is free.
    """
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 20000 and 32000 on 127.0.0.1")
