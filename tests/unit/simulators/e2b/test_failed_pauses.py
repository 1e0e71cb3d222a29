"""Lost machines: what E2B's record then says, and what is left."""

import pytest
from e2b import E2B, GuestUnresponsiveException, SandboxException, ServiceBusyException
from e2b.exceptions import (
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxUnreachableException,
)
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient


async def test_failed_pause_shows_the_new_period_and_the_end_of_the_newest_good_one(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    """infra: pause_instance.go:36, create_new_snapshot.sql:43 record the period before they ask the node."""
    await control.change_settings(keep_snapshots=True)
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/mnt/session/a.txt", "a", user="root")
    await sandbox.pause()
    good = await sandbox.get_info()
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    await sandbox.files.write("/mnt/session/b.txt", "b", user="root")
    running = await sandbox.get_info()
    await control.add_fault("pause", "pause_rolled_back")
    with pytest.raises(SandboxException):
        await sandbox.pause()
    info = await sandbox.get_info()
    assert info.state == "paused"
    assert info.started_at == running.started_at > good.started_at
    assert info.end_at == good.end_at < info.started_at
    again = await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert await again.files.read("/mnt/session/a.txt", user="root") == "a"
    assert not await again.files.exists("/mnt/session/b.txt")


async def test_first_pause_that_fails_loses_the_sandbox(e2b: E2B, control: E2BSimulatorClient) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await control.add_fault("pause", "pause_rolled_back")
    with pytest.raises(SandboxException):
        await sandbox.pause()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()


async def test_record_of_a_crashed_guest_says_running_until_a_pause(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    """infra: connect and set_timeout answer 404 (and extend its life); delete_instance.go:105 clears it."""
    await control.change_settings(keep_snapshots=True)
    sandbox = await e2b.AsyncSandbox.create("base", timeout=60)
    await sandbox.files.write("/mnt/session/a.txt", "a", user="root")
    await sandbox.pause()
    good = await sandbox.get_info()
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    await sandbox.files.write("/mnt/session/b.txt", "b", user="root")
    before = await sandbox.get_info()
    await control.crash(sandbox.sandbox_id)
    with pytest.raises(SandboxNotRunningException):
        await sandbox.commands.run("true")
    with pytest.raises(SandboxNotFoundException):
        await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=600)
    with pytest.raises(SandboxNotFoundException):
        await sandbox.set_timeout(1200)
    stale = await sandbox.get_info()
    assert stale.state == "running"
    assert stale.end_at > before.end_at
    with pytest.raises(SandboxException) as refused:
        await sandbox.pause()
    assert refused.value.status_code == 500
    cleared = await sandbox.get_info()
    assert (cleared.state, cleared.end_at) == ("paused", good.end_at)
    again = await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert await again.files.read("/mnt/session/a.txt", user="root") == "a"
    assert not await again.files.exists("/mnt/session/b.txt")


async def test_kill_of_a_stale_record_removes_the_files_of_the_newest_pause(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.pause()
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    await control.crash(sandbox.sandbox_id)
    assert await sandbox.kill() is True
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()


async def test_silent_guest_fails_a_strict_pause_and_resumes_only_by_a_reboot(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    """infra PR#3648: the pause of a hanging guest would save it, and it would hang after each resume."""
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.files.write("/mnt/session/a.txt", "a", user="root")
    await control.wedge(sandbox.sandbox_id)
    with pytest.raises(SandboxUnreachableException):
        await sandbox.commands.run("true")
    with pytest.raises(ServiceBusyException):
        await sandbox.pause(strict=True, retries=0)
    assert (await sandbox.get_info()).state == "running"
    await sandbox.pause()
    assert (await sandbox.get_info()).envd_unresponsive_at_pause
    with pytest.raises(GuestUnresponsiveException):
        await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    again = await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60, on_resume="reboot")
    assert await again.files.read("/mnt/session/a.txt", user="root") == "a"
