import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest
from e2b import E2B, CommandExitException
from e2b.exceptions import AuthenticationException, NotFoundException, SandboxException, TimeoutException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

Until = Callable[..., Awaitable[None]]


async def test_background_command_streams_while_it_runs(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    seen: asyncio.Queue[str] = asyncio.Queue()
    command = await sandbox.commands.run(
        "for n in 1 2 3; do echo line $n; while [ ! -e /tmp/go$n ]; do sleep 0.01; done; done; echo bad >&2; "
        "exit 4",
        background=True,
        timeout=0,
        on_stdout=seen.put_nowait,
    )
    for number in (1, 2, 3):
        assert await asyncio.wait_for(seen.get(), 30) == f"line {number}\n"
        await sandbox.files.write(f"/tmp/go{number}", "")
    with pytest.raises(CommandExitException) as caught:
        await command.wait()
    assert (caught.value.exit_code, caught.value.stderr) == (4, "bad\n")


async def test_timeout_kills_the_process_but_not_its_children(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    command = await sandbox.commands.run(
        "sleep 1001 > /dev/null 2>&1 & while true; do sleep 0.1; done",
        background=True,
        timeout=1,
    )
    with pytest.raises(TimeoutException):
        await command.wait()

    async def only_the_child_is_left() -> bool:
        commands = [process.command for process in (await control.sandbox(sandbox.sandbox_id)).processes]
        return commands == ["sleep 1001"] or (
            "sleep 1001" in commands and not any("while" in c for c in commands)
        )

    await until(only_the_child_is_left)


async def test_process_survives_the_client_and_can_be_reconnected_to(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    command = await sandbox.commands.run(
        "while [ ! -e /tmp/go ]; do sleep 0.01; done; echo late; exit 7", background=True, timeout=0
    )
    await command.disconnect()
    assert command.pid in [process.pid for process in await sandbox.commands.list()]
    again = await sandbox.commands.connect(command.pid)
    await sandbox.files.write("/tmp/go", "")
    with pytest.raises(CommandExitException) as caught:
        await again.wait()
    assert (caught.value.stdout, caught.value.exit_code) == ("late\n", 7)
    with pytest.raises(CommandExitException) as retained:
        await (await sandbox.commands.connect(command.pid)).wait()
    assert retained.value.exit_code == 7


async def test_exit_is_retained_for_the_configured_time(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(exit_retention_seconds=0)
    sandbox = await e2b.AsyncSandbox.create("base")
    command = await sandbox.commands.run("true", background=True, timeout=0)
    await command.wait()
    with pytest.raises((SandboxException, NotFoundException)):
        await (await sandbox.commands.connect(command.pid)).wait()


async def test_kill_standard_input_and_list(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    reading = await sandbox.commands.run(
        "cat; echo done", background=True, stdin=True, timeout=0, envs={"A": "b"}
    )
    listed = await sandbox.commands.list()
    assert [process.envs for process in listed if process.pid == reading.pid] == [{"A": "b"}]
    await sandbox.commands.send_stdin(reading.pid, "typed\n")
    await sandbox.commands.close_stdin(reading.pid)
    assert (await reading.wait()).stdout == "typed\ndone\n"
    sleeping = await sandbox.commands.run("exec sleep 1000", background=True, timeout=0)
    assert await sandbox.commands.kill(sleeping.pid) is True
    with pytest.raises(CommandExitException) as caught:
        await sleeping.wait()
    assert caught.value.exit_code == -1
    assert await sandbox.commands.kill(99_999) is False


async def test_users_homes_and_directories(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    assert (await sandbox.commands.run("pwd; echo $HOME $USER")).stdout == "/home/user\n/home/user user\n"
    assert (await sandbox.commands.run("pwd; id -u", user="root")).stdout == "/home/user\n0\n"
    assert (await sandbox.commands.run("pwd", cwd="/tmp")).stdout == "/tmp\n"
    with pytest.raises(SandboxException, match="does not exist"):
        await sandbox.commands.run("pwd", cwd="/nowhere")
    with pytest.raises(AuthenticationException):
        await sandbox.commands.run("pwd", user="nobody-of-that-name")


async def test_wrong_access_token_is_refused(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": "wrong"}
    async with httpx.AsyncClient(base_url=control.url, headers=headers) as client:
        assert (await client.post("/process.Process/List", json={})).status_code == 401
        assert (await client.get("/files", params={"path": "/etc/hosts"})).status_code == 401
        assert (await client.get("/health")).status_code == 204


async def test_large_output_and_large_arguments_arrive_whole(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    result = await sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x")
    assert len(result.stdout) == 3_000_000
    long = "y" * 100_000
    assert (
        await sandbox.commands.run('printf %s "$LONG" | wc -c', envs={"LONG": long})
    ).stdout.strip() == "100000"


async def test_port_of_a_sandbox_is_reachable_by_routing_headers(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    program = (
        "import http.server, pathlib\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
        "pathlib.Path('/tmp/port').write_text(str(s.server_port))\ns.serve_forever()"
    )
    await sandbox.files.write("/home/user/serve.py", program)
    await sandbox.commands.run("python3 serve.py", background=True, timeout=0)

    async def listening() -> bool:
        return await sandbox.files.exists("/tmp/port") and bool(await sandbox.files.read("/tmp/port"))

    await until(listening)
    port = await sandbox.files.read("/tmp/port")
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": port}
    async with httpx.AsyncClient(base_url=control.url, headers=headers) as client:
        assert (await client.get("/serve.py")).text == program
        closed = await client.get("/", headers={"E2b-Sandbox-Port": "1"})
    assert closed.status_code == 502
    assert "port is not open" in closed.json()["message"]


async def test_latency_model_decides_how_long_an_operation_takes(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    await control.change_settings(latencies={"create": {"mean_ms": 300}})
    began = time.monotonic()
    await e2b.AsyncSandbox.create("base")
    assert time.monotonic() - began >= 0.3
