"""Connections after a pause that notifies nobody: they stay established, and nothing passes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from e2b import E2B
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

Until = Callable[..., Awaitable[None]]

PROGRAM = """
import socket, sys, time
outside = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
listener = socket.create_server(("127.0.0.1", 0))
inside = socket.create_connection(listener.getsockname())
other, _ = listener.accept()
outside.sendall(b"x")
outside.settimeout(0.2)
while True:
    inside.sendall(b"y")
    heard = other.recv(1).decode()
    try:
        outside.sendall(b"x")
        outcome = outside.recv(1).decode() or "closed"
    except TimeoutError:
        outcome = "silence"
    except OSError as error:
        outcome = type(error).__name__
    with open("/tmp/result", "w") as stream:
        stream.write(f"{heard} {outcome}")
"""
"""Connects to a port outside and to itself, and writes the state of both again and again."""


@dataclass
class Outside:
    """A server outside the sandbox: what it has received, and whether a connection has ended."""

    port: int
    received: int = 0
    ended: int = 0


@asynccontextmanager
async def talking_server() -> AsyncIterator[Outside]:
    outside = Outside(0)
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while data := await reader.read(100):
                outside.received += len(data)
                writer.write(b"z" * len(data))
        except OSError:
            pass
        outside.ended += 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    outside.port = server.sockets[0].getsockname()[1]
    yield outside
    for writer in writers:
        writer.close()
    server.close()


async def test_a_pause_silences_connections_without_notifying_either_end(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    async with talking_server() as outside:
        sandbox = await e2b.AsyncSandbox.create("base")
        await sandbox.files.write("/tmp/client.py", PROGRAM)
        await sandbox.commands.run(f"python3 /tmp/client.py {outside.port}", background=True, timeout=0)

        async def result(wanted: str) -> bool:
            path = (await control.sandbox(sandbox.sandbox_id)).path("/tmp/result")
            return path.exists() and path.read_text() == wanted

        await until(lambda: result("y z"))
        await sandbox.pause()
        await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
        await until(lambda: result("y silence"))
        received = outside.received
        (await control.sandbox(sandbox.sandbox_id)).path("/tmp/result").unlink(missing_ok=True)
        await until(lambda: result("y silence"))
        assert (outside.received, outside.ended) == (received, 0)


async def test_connections_can_be_lost_while_the_sandbox_runs(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    async with talking_server() as outside:
        sandbox = await e2b.AsyncSandbox.create("base")
        await sandbox.files.write("/tmp/client.py", PROGRAM)
        await sandbox.commands.run(f"python3 /tmp/client.py {outside.port}", background=True, timeout=0)

        async def works() -> bool:
            return outside.received > 2

        await until(works)
        assert await control.cut_silently(sandbox.sandbox_id) == 1
        path = (await control.sandbox(sandbox.sandbox_id)).path("/tmp/result")

        async def silent() -> bool:
            return path.read_text() == "y silence"

        await until(silent)
        assert outside.ended == 0


async def test_a_clients_stream_falls_silent_at_a_pause(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    heard = asyncio.Event()
    command = await sandbox.commands.run(
        "while true; do echo tick; sleep 0.1; done",
        background=True,
        timeout=0,
        on_stdout=lambda _: heard.set(),
    )
    await asyncio.wait_for(heard.wait(), 30)
    await sandbox.pause()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(command._wait), 2)
    await command.disconnect()


async def test_nobody_can_connect_while_the_network_is_lost(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    began = asyncio.get_running_loop().time()
    assert await control.lose_network(3) >= 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await httpx.AsyncClient(trust_env=False).get(f"{control.url}/sandboxes")
    async with httpx.AsyncClient(trust_env=False, timeout=30) as anew:
        assert (await anew.get(f"{control.url}/_simulator/settings")).status_code == 200
    assert asyncio.get_running_loop().time() - began >= 3
    assert (await control.sandbox(sandbox.sandbox_id)).state == "running"
