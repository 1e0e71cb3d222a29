"""Processes that a fork server starts are like those that are executed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from managed_session_cli.worker_template import ensure_template
from managed_session_devkit.simulators.anthropic.settings import Settings as AnthropicSettings
from managed_session_devkit.system.child_process import ChildProcess
from managed_session_devkit.system.clouds import SIMULATED_E2B_KEY, simulated_clouds
from managed_session_devkit.system.environment import base_environment
from managed_session_devkit.system.fork_server import ForkServer
from managed_session_devkit.system.simulator_process import SimulatorProcess

from ...support.waiting import eventually

SIMULATOR = [sys.executable, "-m", "managed_session_devkit.simulators.anthropic", "--port=0"]


@pytest.fixture
async def fork_server() -> AsyncIterator[ForkServer]:
    server = ForkServer()
    yield server
    await server.close()


def _process(command: list[str], folder: Path, server: ForkServer) -> ChildProcess:
    return ChildProcess("process", command, folder, base_environment(os.environ), server)


async def _simulator(folder: Path, server: ForkServer) -> ChildProcess:
    settings, ready = folder / "settings.json", folder / "ready.json"
    settings.write_text("{}")
    process = _process(
        [*SIMULATOR, f"--ready-file={ready.name}", f"--settings={settings.name}"], folder, server
    )
    await process.start()

    async def listens() -> bool:
        return ready.exists()

    await eventually("it listens, in its own folder", listens)
    return process


async def test_a_forked_process_leads_its_own_group_and_ends_when_told(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    process = await _simulator(tmp_path, fork_server)
    pid = process.pid
    assert pid is not None
    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert "forked_program" in " ".join(psutil.Process(pid).parent().cmdline())  # type: ignore[union-attr]
    await process.stop()
    assert process.pid is None
    assert not psutil.pid_exists(pid)


async def test_its_exit_code_and_its_output_are_reported(fork_server: ForkServer, tmp_path: Path) -> None:
    process = _process([*SIMULATOR, "--settings=missing.json"], tmp_path, fork_server)
    await process.start()
    error = await process.wait()
    assert "exited with code 1" in str(error)
    assert "cannot use missing.json" in str(error)


async def test_a_killed_process_is_reported_and_can_start_again(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    process = await _simulator(tmp_path, fork_server)
    process.kill()
    assert "was ended by signal 9" in str(await process.wait())
    await process.stop(kill=True)
    await process.start()
    assert process.pid is not None
    await process.stop(kill=True)


async def test_a_start_that_is_cancelled_leaves_its_process_to_no_other(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("first", "cancelled", "next")]
    for folder in folders:
        folder.mkdir()
    # From here on the program is imported, so that a request is sent as soon as a start begins.
    first = await _simulator(folders[0], fork_server)
    assert first.pid is not None
    program = psutil.Process(first.pid).parent()
    assert program is not None
    program.suspend()
    cancelled = asyncio.create_task(_simulator(folders[1], fork_server))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    program.resume()
    following = await _simulator(folders[2], fork_server)
    assert psutil.Process(following.pid).cwd() == str(folders[2])

    async def only_the_others() -> bool:
        return {each.pid for each in program.children()} == {first.pid, following.pid}

    await eventually("the process of the cancelled start has ended", only_the_others)
    await first.stop(kill=True)
    await following.stop(kill=True)


async def test_forked_processes_end_with_their_server(tmp_path: Path) -> None:
    server = ForkServer()
    process = await _simulator(tmp_path, server)
    await server.close()
    assert "was ended by signal 9" in str(await process.wait())


async def test_a_program_that_it_does_not_know_is_executed(fork_server: ForkServer, tmp_path: Path) -> None:
    process = _process(["/bin/sh", "-c", "echo executed; exit 3"], tmp_path, fork_server)
    await process.start()
    error = await process.wait()
    assert "exited with code 3" in str(error)
    assert "executed" in str(error)


def _zygotes() -> set[psutil.Process]:
    return {each for each in psutil.Process().children() if each.name() == "e2b-zygote"}


async def test_simulators_of_e2b_share_what_sandboxes_import_and_leave_no_process(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    of_other_tests, simulators = _zygotes(), []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        simulator = SimulatorProcess(
            "e2b",
            folder,
            {"api_keys": [SIMULATED_E2B_KEY]},
            base_environment(os.environ),
            f"--state-dir={folder}",
            fork_server=fork_server,
        )
        await simulator.start()
        clouds = simulated_clouds("http://127.0.0.1:9", simulator.url, AnthropicSettings())
        await ensure_template(None, **clouds.e2b_options)
        simulators.append(simulator)
    [shared] = _zygotes() - of_other_tests
    assert len(shared.children()) == len(simulators)

    for left, simulator in enumerate(reversed(simulators)):
        await simulator.stop()

        async def ended(left: int = left) -> bool:
            return len(shared.children()) == len(simulators) - 1 - left

        await eventually("its fork has ended", ended)
