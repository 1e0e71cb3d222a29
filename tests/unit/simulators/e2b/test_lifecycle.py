import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx
import pytest
from e2b import (
    E2B,
    AsyncTemplate,
    AuthenticationException,
    RateLimitException,
    SandboxException,
    SandboxNetworkOpts,
)
from e2b.exceptions import SandboxNotFoundException, SandboxNotRunningException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient, process_exists

Until = Callable[..., Awaitable[None]]


async def test_memory_and_files_survive_a_full_pause_and_nothing_runs_meanwhile(
    e2b: E2B, control: E2BSimulatorClient, worker_name: str, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create(worker_name)
    await sandbox.files.write("/mnt/session/kept.txt", "kept", user="root")

    async def count() -> int:
        return int((await control.sandbox(sandbox.sandbox_id)).path("/tmp/count").read_text() or "0")

    assert await sandbox.pause() is True
    paused = await control.sandbox(sandbox.sandbox_id)
    assert {process.state for process in paused.processes} == {"T"}
    at_pause = await count()
    resumed = await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)

    async def counts_on() -> bool:
        return await count() > at_pause + 3

    await until(counts_on)
    assert await resumed.files.read("/mnt/session/kept.txt", user="root") == "kept"
    same = [process.host_pid for process in paused.processes]
    assert [process.host_pid for process in (await control.sandbox(sandbox.sandbox_id)).processes] == same


async def test_tcp_connections_are_dead_after_a_pause(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(cut_silently=False)
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sandbox = await e2b.AsyncSandbox.create("base")
    program = (
        f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'x')\n"
        "open('/tmp/connected', 'w').close()\n"
        "try: print('read', s.recv(1))\n"
        "except OSError as error: print(type(error).__name__)"
    )
    await sandbox.files.write("/tmp/client.py", program)
    command = await sandbox.commands.run("python3 /tmp/client.py > /tmp/result", background=True, timeout=0)
    # The writer is kept: without it the connection is closed from here.
    remote, writer = await asyncio.wait_for(accepted.get(), 20)
    assert await remote.read(1) == b"x"
    await sandbox.pause()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(remote.read(1), 10)
    resumed = await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    again = await resumed.commands.connect(command.pid)
    await asyncio.wait_for(again.wait(), 20)
    assert (await resumed.files.read("/tmp/result")).strip() == "ConnectionResetError"
    writer.close()
    server.close()


async def test_kill_leaves_no_process_and_no_file(
    e2b: E2B, control: E2BSimulatorClient, worker_name: str, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create(worker_name)
    await sandbox.commands.run("setsid sleep 1000 & sleep 1000", background=True, timeout=0)

    async def both_sleep() -> bool:
        processes = (await control.sandbox(sandbox.sandbox_id)).processes
        return [process.command for process in processes].count("sleep 1000") == 2

    await until(both_sleep)
    before = await control.sandbox(sandbox.sandbox_id)
    assert before.root is not None
    assert before.init_pid is not None
    assert await sandbox.kill() is True
    assert await e2b.AsyncSandbox.kill(sandbox.sandbox_id) is False
    pids = [before.init_pid, *(process.host_pid for process in before.processes)]
    assert len(pids) >= 4
    assert not [pid for pid in pids if process_exists(pid)]

    async def removed() -> bool:
        assert before.root is not None
        return not before.root.exists()

    await until(removed)
    with pytest.raises(SandboxNotFoundException):
        await e2b.AsyncSandbox.get_info(sandbox.sandbox_id)


async def test_paused_sandbox_can_be_killed(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.commands.run("sleep 1000", background=True, timeout=0)
    await sandbox.pause()
    pids = [process.host_pid for process in (await control.sandbox(sandbox.sandbox_id)).processes]
    assert await e2b.AsyncSandbox.kill(sandbox.sandbox_id) is True
    assert not [pid for pid in pids if process_exists(pid)]


async def test_pause_answers_false_when_paused_and_not_found_when_gone(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    assert await sandbox.pause() is True
    assert await sandbox.pause() is False
    await sandbox.kill()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.pause()
    with pytest.raises(SandboxNotFoundException):
        await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)


async def test_connect_extends_only_and_resume_starts_a_new_run(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base", timeout=600)
    first = await sandbox.get_info()
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert (await sandbox.get_info()).end_at == first.end_at
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=1200)
    assert (await sandbox.get_info()).end_at > first.end_at
    await sandbox.set_timeout(120)
    assert (await sandbox.get_info()).end_at < first.end_at
    await sandbox.pause()
    paused = await sandbox.get_info()
    assert paused.state == "paused"
    assert paused.end_at <= datetime.now(UTC)
    with pytest.raises(SandboxNotFoundException):
        await sandbox.set_timeout(60)
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert (await sandbox.get_info()).started_at > first.started_at
    calls = (await control.ledger(operation="connect")).calls
    assert [call["status"] for call in calls] == [200, 200, 201]


async def test_timeout_kills_or_pauses_by_lifecycle(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    killed = await e2b.AsyncSandbox.create("base", timeout=1)
    paused = await e2b.AsyncSandbox.create("base", timeout=600, lifecycle={"on_timeout": "pause"})
    await control.expire(paused.sandbox_id)

    async def both() -> bool:
        states = {sandbox.id: sandbox.state for sandbox in await control.sandboxes()}
        return states[killed.sandbox_id] == "killed" and states[paused.sandbox_id] == "paused"

    await until(both)
    events = (await control.ledger()).events
    assert events["timeout_kill"] == 1
    assert events["timeout_pause"] == 1


async def test_lifetime_is_capped(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(max_lifetime_seconds=100)
    sandbox = await e2b.AsyncSandbox.create("base", timeout=50)
    await sandbox.set_timeout(3600)
    info = await sandbox.get_info()
    assert (info.end_at - info.started_at).total_seconds() == pytest.approx(100, abs=1)
    with pytest.raises(SandboxException, match="Timeout"):
        await e2b.AsyncSandbox.create("base", timeout=100_000)


async def test_traffic_resumes_only_if_the_policy_says_so(e2b: E2B, control: E2BSimulatorClient) -> None:
    plain = await e2b.AsyncSandbox.create("base", lifecycle={"on_timeout": "pause"})
    woken = await e2b.AsyncSandbox.create("base", lifecycle={"on_timeout": "pause", "auto_resume": True})
    for sandbox in (plain, woken):
        await sandbox.pause()
    with pytest.raises(SandboxNotRunningException):
        await plain.commands.run("true")
    assert await plain.is_running() is False
    assert (await woken.commands.run("echo awake")).stdout == "awake\n"
    info = await woken.get_info()
    assert info.state == "running"
    assert (info.end_at - info.started_at).total_seconds() == pytest.approx(300, abs=2)
    await woken.pause()
    headers = {"E2b-Sandbox-Id": woken.sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": "wrong"}
    async with httpx.AsyncClient(base_url=control.url) as client:
        refused = await client.get("/files", params={"path": "/etc/hosts"}, headers=headers)
    assert refused.status_code == 403
    assert (await woken.get_info()).state == "paused"


async def test_filesystem_pause_keeps_files_and_loses_processes(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base", envs={"GIVEN": "1"})
    await sandbox.files.write("/mnt/session/a", "a", user="root")
    await sandbox.files.write("/tmp/b", "b")
    command = await sandbox.commands.run("sleep 1000", background=True, timeout=0)
    await sandbox.pause(mode="filesystem")
    assert (await control.sandbox(sandbox.sandbox_id)).processes == ()
    resumed = await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert await resumed.files.read("/mnt/session/a", user="root") == "a"
    assert not await resumed.files.exists("/tmp/b")
    assert await resumed.commands.kill(command.pid) is False
    assert "GIVEN" not in (await resumed.commands.run("env")).stdout


async def test_concurrency_and_creation_rate_are_limited(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(max_concurrent_sandboxes=2)
    first = await e2b.AsyncSandbox.create("base")
    await e2b.AsyncSandbox.create("base")
    with pytest.raises(RateLimitException, match="maximum number of concurrent E2B sandboxes"):
        await e2b.AsyncSandbox.create("base", retries=0)
    await first.pause()
    await e2b.AsyncSandbox.create("base")
    with pytest.raises(RateLimitException):
        await e2b.AsyncSandbox.connect(first.sandbox_id, timeout=60, retries=0)
    assert (await control.ledger()).peak_concurrent == 2
    await control.change_settings(max_concurrent_sandboxes=10, creations_per_second=0.01, creation_burst=1)
    await e2b.AsyncSandbox.create("base")
    body = {"templateID": "base"}
    async with httpx.AsyncClient(base_url=control.url, headers={"X-API-Key": "k"}) as client:
        refused = await client.post("/v2/sandboxes", json=body)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 50


async def test_api_key_is_checked(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(api_keys=["the-right-one"])
    with pytest.raises(AuthenticationException):
        await e2b.AsyncSandbox.create("base")
    async with httpx.AsyncClient(base_url=control.url) as client:
        missing = await client.get("/v2/sandboxes")
    assert missing.status_code == 401
    assert missing.json()["code"] == 401


async def test_pause_kills_a_sandbox_whose_template_was_deleted(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    info = await e2b.AsyncTemplate.build(AsyncTemplate().from_base_image(), "short-lived")
    sandbox = await e2b.AsyncSandbox.create("short-lived")
    async with httpx.AsyncClient(base_url=control.url, headers={"X-API-Key": "k"}) as client:
        refused = await client.delete(f"/templates/{info.template_id}")
    assert refused.status_code == 400, "it has running or paused sandboxes"
    await control.delete_template(info.template_id)
    with pytest.raises(SandboxException):
        await sandbox.pause()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()


async def test_history_has_events_with_times(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.pause()
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    await sandbox.kill()
    history = (await control.sandbox(sandbox.sandbox_id)).history
    assert [entry["event"] for entry in history] == ["created", "paused", "resumed", "killed"]
    assert sorted(history, key=lambda entry: entry["at"]) == history


async def test_calls_that_are_not_simulated_are_reported(control: E2BSimulatorClient) -> None:
    async with httpx.AsyncClient(base_url=control.url, headers={"X-API-Key": "k"}) as client:
        answer = await client.post("/sandboxes/iabc/fork", json={})
    assert answer.status_code == 404
    assert "not simulated" in answer.json()["message"]
    assert (await control.ledger()).operations["unknown"] == 1


async def test_billing_stops_while_paused(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.pause()
    first = (await control.sandbox(sandbox.sandbox_id)).billed_seconds
    assert first > 0
    assert (await control.sandbox(sandbox.sandbox_id)).billed_seconds == first


async def test_network_policy_is_recorded_and_checked(e2b: E2B, control: E2BSimulatorClient) -> None:
    policy = SandboxNetworkOpts(allow_out=["api.anthropic.com"], deny_out=["0.0.0.0/0"])
    sandbox = await e2b.AsyncSandbox.create("base", network=policy)
    raw = (await control.sandbox(sandbox.sandbox_id)).raw
    assert raw["network"]["allowOut"] == ["api.anthropic.com"]
    await sandbox.update_network({"deny_out": ["10.0.0.0/8"]})
    assert (await control.sandbox(sandbox.sandbox_id)).raw["network"]["denyOut"] == ["10.0.0.0/8"]
    with pytest.raises(SandboxException, match="denyOut"):
        await e2b.AsyncSandbox.create("base", network=SandboxNetworkOpts(allow_out=["api.anthropic.com"]))
