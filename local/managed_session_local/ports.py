"""Free TCP ports of this machine."""

import random
import socket

_PORTS = range(20_000, 32_000)
"""Below the ports that Linux and macOS give to outgoing connections, so that a port that was found free stays
so while its server is stopped and started again."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on.

    Raises:
        OSError: none was found.
    """
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 20000 and 32000 on 127.0.0.1")
