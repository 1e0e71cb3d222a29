"""The simulator without privileges: sandboxes run in a user namespace."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2b import E2B, AsyncTemplate, wait_for_file
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

# Only root may be able to read the interpreter, so the test keeps the user and drops root's capabilities:
# the kernel then refuses namespaces just as to any user. (CAP_SETFCAP only allows to map root's own number.)
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--no-new-privs"]

# Its memory and descriptors are closed to others, as a worker's are that holds a credential.
WORKER = """
import anthropic, ctypes, os, socket, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
open("/tmp/ready", "w").close()
while not (os.path.exists("/tmp/port") and open("/tmp/port").read()):
    time.sleep(0.01)
connection = socket.create_connection(("127.0.0.1", int(open("/tmp/port").read())))
connection.recv(1)
"""


async def test_whole_life_of_a_sandbox_as_an_ordinary_user(
    start_simulator: Callable[..., Any], sdk_for: Callable[[str], E2B], tmp_path: Path
) -> None:
    prefix = WITHOUT_PRIVILEGES if os.geteuid() == 0 else []
    assert not prefix or shutil.which("setpriv")
    (tmp_path / "worker.py").write_text(WORKER)
    accepted: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
    server = await asyncio.start_server(lambda reader, _: accepted.put_nowait(reader), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with start_simulator({"cut_silently": False}, prefix=prefix) as simulator:
        client = sdk_for(simulator.url)
        template = (
            AsyncTemplate(file_context_path=str(tmp_path))
            .from_base_image()
            .copy("worker.py", "/opt/anthropic-managed-agents/lib/")
            .set_user("root")
            .set_start_cmd("python3 /opt/anthropic-managed-agents/lib/worker.py", wait_for_file("/tmp/ready"))
        )
        await client.AsyncTemplate.build(template, "worker")
        one, two = [await client.AsyncSandbox.create("worker") for _ in range(2)]
        await one.files.write("/mnt/session/x", "one", user="root")
        assert not await two.files.exists("/mnt/session/x")
        assert (await one.commands.run("id -u; cat /mnt/session/x", user="root")).stdout == "0\none"
        assert "worker.py" in (await one.commands.run("ps -eo args")).stdout
        await one.files.write("/tmp/port", str(port))
        remote = await asyncio.wait_for(accepted.get(), 20)
        assert await one.pause() is True
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(remote.read(1), 10) == b""
        resumed = await client.AsyncSandbox.connect(one.sandbox_id, timeout=60)
        assert await resumed.files.read("/mnt/session/x") == "one"
        assert await one.kill() is True
        async with E2BSimulatorClient(simulator.url) as control:
            assert [sandbox.state for sandbox in await control.sandboxes()] == ["killed", "running"]
    server.close()
