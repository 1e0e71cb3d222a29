"""A shell host in the test's own process, and a real connection to it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from managed_session_worker.shell_client import ShellClient
from managed_session_worker.shell_host import ShellHost
from managed_session_worker.shell_wire import CONNECTION, SharedRecord


@asynccontextmanager
async def local_shells(host: ShellHost | None = None) -> AsyncIterator[ShellClient]:
    """Connect a worker's client with a host, by default a new one that ends with it."""
    serving = host or ShellHost(SharedRecord())
    ours, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs, its = socket.socketpair()
    with ours, channel:
        with its:
            socket.send_fds(ours, [CONNECTION], [its.fileno()])
        task = asyncio.create_task(serving.serve(theirs))
        try:
            yield ShellClient(channel, lambda _: None)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if host is None:
                serving.close()
