import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from e2b import E2B, CommandExitException, SandboxQuery
from e2b.exceptions import (
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxUnreachableException,
    ServiceBusyException,
)
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

Until = Callable[..., Awaitable[None]]


async def test_response_lost_after_commit_leaves_a_sandbox_behind(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    await control.add_fault("create", "drop_after_commit")
    with pytest.raises(httpx.HTTPError):
        await e2b.AsyncSandbox.create("base", metadata={"lost": "1"})
    page = await e2b.AsyncSandbox.list(query=SandboxQuery(metadata={"lost": "1"})).next_items()
    assert len(page) == 1
    assert [call["status"] for call in (await control.ledger(operation="create")).calls] == ["dropped"]


async def test_connection_dropped_before_the_operation_changes_nothing(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await control.add_fault("kill", "drop_before", match={"sandboxID": sandbox.sandbox_id})
    with pytest.raises(httpx.HTTPError):
        await sandbox.kill()
    assert (await sandbox.get_info()).state == "running"


async def test_pause_that_loses_the_sandbox(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await control.add_fault("pause", "pause_dropped")
    with pytest.raises(SandboxException):
        await sandbox.pause()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()


async def test_connect_conflict_then_success(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.pause()
    await control.add_fault("connect", {"status": 409, "body": {"code": 409, "message": "transitioning"}})
    with pytest.raises(SandboxException) as caught:
        await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert caught.value.status_code == 409
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    statuses = [call["status"] for call in (await control.ledger(operation="connect")).calls]
    assert statuses == [409, 201]


async def test_retry_after_is_sent_and_faults_count_their_calls(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    action = {"status": 429, "body": {"code": 429, "message": "slow down"}, "headers": {"Retry-After": "1"}}
    await control.add_fault("get", action, times=1, skip=1)
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.get_info()
    assert (await sandbox.get_info()).state == "running"
    assert [fault["hits"] for fault in await control.faults()] == [1]
    assert [call["status"] for call in (await control.ledger(operation="get")).calls] == [200, 429, 200]


async def test_silent_stream_sends_nothing_after_its_start(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await control.add_fault(
        "process_start", "silent_stream", match={"body": {"process": {"$contains": "quiet"}}}
    )
    command = await sandbox.commands.run("echo quiet", background=True, timeout=0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(command.wait(), 0.5)
    assert (await sandbox.commands.run("echo loud")).stdout == "loud\n"


async def test_cut_stream_leaves_the_process_running(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await control.add_fault("process_start", {"action": "cut_stream", "after_events": 1})
    command = await sandbox.commands.run("echo one; echo two; exec sleep 1000", background=True, timeout=0)
    await sandbox.commands.run("touch /tmp/other")
    with pytest.raises(SandboxUnreachableException):
        await command.wait()
    assert command.pid in [process.pid for process in await sandbox.commands.list()]


async def test_vanished_sandbox_ends_its_streams(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    command = await sandbox.commands.run("exec sleep 1000", background=True, timeout=0)
    await control.vanish(sandbox.sandbox_id)
    with pytest.raises(SandboxNotRunningException):
        await asyncio.wait_for(command.wait(), 20)
    assert (await control.sandbox(sandbox.sandbox_id)).kill_reason == "vanished"


async def test_pause_ends_streams_of_clients(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(cut_silently=False)
    sandbox = await e2b.AsyncSandbox.create("base")
    command = await sandbox.commands.run("exec sleep 1000", background=True, timeout=0)
    await sandbox.pause()
    with pytest.raises(SandboxNotRunningException):
        await asyncio.wait_for(command.wait(), 20)


async def test_files_can_be_lost_and_processes_killed(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/mnt/session/kept", "x", user="root")
    await control.lose_files(sandbox.sandbox_id)
    assert not await sandbox.files.exists("/mnt/session/kept")
    command = await sandbox.commands.run("exec sleep 1234", background=True, timeout=0)

    async def sleeps() -> bool:
        """The login shell has read its profile, for which it starts processes."""
        processes = (await control.sandbox(sandbox.sandbox_id)).processes
        return [process.command for process in processes] == ["sleep 1234"]

    await until(sleeps)
    assert len(await control.kill_processes(sandbox.sandbox_id, contains="sleep 1234")) == 1
    with pytest.raises(CommandExitException) as caught:
        await command.wait()
    assert caught.value.exit_code == -1


async def test_invalid_control_requests_say_what_is_wrong(control: E2BSimulatorClient) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="either a named"):
        await control.add_fault("create", {})
    with pytest.raises(httpx.HTTPStatusError, match="max_concurrent_sandboxes"):
        await control.change_settings(max_concurrent_sandboxes=0)
    with pytest.raises(httpx.HTTPStatusError, match="no such sandbox"):
        await control.vanish("inobody")


@pytest.mark.parametrize(
    ("action", "made"),
    [({"action": "hang", "seconds": 30}, 0), ({"action": "hang_after_commit", "seconds": 30}, 1)],
)
async def test_create_can_hang_longer_than_its_clients_timeout_before_or_after_its_effect(
    e2b: E2B, control: E2BSimulatorClient, until: Until, action: dict[str, object], made: int
) -> None:
    await control.add_fault("create", action)
    with pytest.raises(httpx.ReadTimeout):
        await e2b.AsyncSandbox.create("base", retries=0, request_timeout=2)

    async def as_many() -> bool:
        return len(await control.sandboxes("running")) == made

    await until(as_many)


async def test_should_retry_decides_whether_the_sdk_repeats_a_call(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    for status, header in ((503, "false"), (500, "true")):
        await control.add_fault("get", {"status": status, "headers": {"Should-Retry": header}})
    with pytest.raises(ServiceBusyException):
        await sandbox.get_info()
    assert (await sandbox.get_info()).state == "running"
    assert [call["status"] for call in (await control.ledger(operation="get")).calls] == [503, 500, 200]
