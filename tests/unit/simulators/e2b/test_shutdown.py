import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from e2b import E2B
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient, process_exists

Until = Callable[..., Awaitable[None]]


async def populate(url: str, client: E2B, until: Until) -> tuple[list[int], Path]:
    running = await client.AsyncSandbox.create("base")
    paused = await client.AsyncSandbox.create("base")
    for sandbox in (running, paused):
        await sandbox.commands.run("exec sleep 1000", background=True, timeout=0)

    async def asleep() -> bool:
        """The login shells have read their profiles, for which they start processes."""
        running = [[each.command for each in sandbox.processes] for sandbox in await control.sandboxes()]
        return running == [["sleep 1000"]] * 2

    async with E2BSimulatorClient(url) as control:
        await until(asleep)
        await paused.pause()
        sandboxes = await control.sandboxes()
    pids = [process.host_pid for sandbox in sandboxes for process in sandbox.processes]
    pids += [sandbox.init_pid for sandbox in sandboxes if sandbox.init_pid is not None]
    root = sandboxes[0].root
    assert len(pids) == 4
    assert root is not None
    return pids, root.parents[2]


async def test_sigterm_leaves_no_process_mount_or_file(
    start_simulator: Callable[..., Any], sdk_for: Callable[[str], E2B], until: Until
) -> None:
    with start_simulator() as simulator:
        pids, state = await populate(simulator.url, sdk_for(simulator.url), until)
        simulator.process.terminate()

        async def ended() -> bool:
            return simulator.process.poll() is not None

        await until(ended)
        assert simulator.process.returncode == 0
        assert not [pid for pid in pids if process_exists(pid)]
        assert not state.exists()
        assert str(state) not in Path("/proc/self/mountinfo").read_text()


async def test_sigkill_leaves_no_process_and_no_mount(
    start_simulator: Callable[..., Any], sdk_for: Callable[[str], E2B], until: Until
) -> None:
    with start_simulator() as simulator:
        pids, state = await populate(simulator.url, sdk_for(simulator.url), until)
        simulator.process.send_signal(signal.SIGKILL)

        async def gone() -> bool:
            return not [pid for pid in pids if process_exists(pid)]

        await until(gone)
        assert str(state) not in Path("/proc/self/mountinfo").read_text()
        assert state.exists()
    with start_simulator(directory=state.parents[1]):
        assert not state.exists()
