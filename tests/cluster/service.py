"""A Service: one address before several pods, whose connections go to pods that are ready."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx
from managed_session_devkit.system.pod import Pod

PROBE_SECONDS = 0.2


class Service:
    """Relays each new connection to one of the pods whose last readiness probe succeeded, in turn."""

    def __init__(self) -> None:
        self._ports: dict[Pod, int] = {}
        self._ready: list[int] = []
        self._turn = itertools.count()
        self.url = ""

    def add(self, pod: Pod, url: str) -> None:
        """One more endpoint, used from its next good probe on."""
        self._ports[pod] = urlsplit(url).port or 0

    async def ready(self, pod: Pod) -> bool:
        """Whether connections go to the pod."""
        return self._ports[pod] in self._ready

    async def probe(self) -> None:
        """Keep the list of ready pods; a task's body."""
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while True:
                ready = []
                for pod, port in list(self._ports.items()):
                    with suppress(httpx.HTTPError):
                        if (await client.get(f"{pod.probe_url}/readyz")).is_success:
                            ready.append(port)
                self._ready = ready
                await asyncio.sleep(PROBE_SECONDS)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        if not self._ready:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(
            "127.0.0.1", self._ready[next(self._turn) % len(self._ready)]
        )
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def running_service() -> AsyncIterator[Service]:
    """A Service without endpoints yet."""
    service = Service()
    server = await asyncio.start_server(service.relay, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/webhook"
    probing = asyncio.create_task(service.probe())
    try:
        yield service
    finally:
        probing.cancel()
        server.close()
