"""Faults of a sandbox's machine: a full disk, a wrong clock, stopped processes, a deleted template."""

import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from e2b import E2B, AsyncTemplate, CommandExitException, wait_for_file
from e2b.exceptions import NotEnoughSpaceException, SandboxException, SandboxNotFoundException
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

Until = Callable[..., Awaitable[None]]

CLOCKS = """
import datetime, os, time
if os.fork():
    os.wait()
else:
    with open("/tmp/clocks", "w") as stream:
        print(time.time(), datetime.datetime.now(datetime.UTC).timestamp(), time.monotonic(), file=stream)
    os._exit(0)
open("/tmp/ready", "w").close()
time.sleep(1000)
"""


@pytest.fixture
async def clock_template(e2b: E2B, tmp_path: Path) -> str:
    """A template whose start command has a child that writes its clocks to /tmp/clocks."""
    (tmp_path / "clocks.py").write_text(CLOCKS)
    template = (
        AsyncTemplate(file_context_path=str(tmp_path))
        .from_python_image("3.12")
        .copy("clocks.py", "/opt/anthropic-managed-agents/lib/")
        .set_user("root")
        .set_start_cmd("python3 /opt/anthropic-managed-agents/lib/clocks.py", wait_for_file("/tmp/ready"))
    )
    await e2b.AsyncTemplate.build(template, "clocks")
    return "clocks"


@pytest.mark.parametrize("offset", [86_400, -86_400])
async def test_only_the_wall_clock_of_a_sandbox_can_be_wrong(
    e2b: E2B, control: E2BSimulatorClient, clock_template: str, offset: int
) -> None:
    await control.change_settings(clock_offset_seconds=offset)
    sandbox = await e2b.AsyncSandbox.create(clock_template)
    wall, calendar, monotonic = map(float, (await sandbox.files.read("/tmp/clocks")).split())
    assert wall == pytest.approx(time.time() + offset, abs=60)
    assert calendar == pytest.approx(wall, abs=1)
    assert monotonic == pytest.approx(time.monotonic(), abs=60)


async def test_limited_disk_can_be_full_and_have_room_again(e2b: E2B, control: E2BSimulatorClient) -> None:
    await control.change_settings(disk_megabytes=24)
    sandbox = await e2b.AsyncSandbox.create("base")
    with pytest.raises(CommandExitException, match="No space left"):
        await sandbox.commands.run("head -c 40000000 /dev/zero > /mnt/fill", user="root")
    with pytest.raises(NotEnoughSpaceException):
        await sandbox.files.write("/tmp/more", "x" * 5000)
    seen = await control.sandbox(sandbox.sandbox_id)
    seen.path("/mnt/fill").unlink()
    await sandbox.files.write("/tmp/more", "x" * 5000)
    assert seen.path("/tmp/more").read_text() == "x" * 5000
    await sandbox.pause()
    resumed = await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert await resumed.files.read("/tmp/more") == "x" * 5000


async def test_stopped_process_stays_stopped_until_it_is_continued(
    e2b: E2B, control: E2BSimulatorClient, until: Until
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    command = await sandbox.commands.run("exec sleep 1234", background=True, timeout=0)

    async def states() -> set[str]:
        processes = (await control.sandbox(sandbox.sandbox_id)).processes
        return {process.state for process in processes if process.command == "sleep 1234"}

    async def stopped() -> bool:
        return await states() == {"T"}

    async def sleeping() -> bool:
        return await states() == {"S"}

    # Not the login shell, which reads its profile before.
    await until(sleeping)
    assert len(await control.signal_processes(sandbox.sandbox_id, signal.SIGSTOP, "sleep 1234")) == 1
    await until(stopped)
    await sandbox.pause()
    await e2b.AsyncSandbox.connect(sandbox.sandbox_id, timeout=60)
    assert await states() == {"T"}
    await control.signal_processes(sandbox.sandbox_id, signal.SIGCONT, "sleep 1234")
    await until(sleeping)
    assert command.pid in [process.pid for process in await sandbox.commands.list()]


async def test_pause_of_a_sandbox_whose_template_is_deleted_kills_it(
    e2b: E2B, control: E2BSimulatorClient, clock_template: str
) -> None:
    sandbox = await e2b.AsyncSandbox.create(clock_template)
    await control.delete_template(clock_template)
    with pytest.raises(SandboxException):
        await sandbox.pause()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()
    assert (await control.sandbox(sandbox.sandbox_id)).kill_reason == "base template missing"
