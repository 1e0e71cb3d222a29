"""One shell for each thread of a session, and calls that are made again."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.tools.agent_toolset import AgentToolContext
from managed_session_worker.bash_tool import bash_tool
from managed_session_worker.call_context import calling_thread, calling_tool_use
from managed_session_worker.shell_host import MOST_SHELLS, ShellHost
from managed_session_worker.shell_wire import SharedRecord

from ...support.waiting import eventually, wait_until
from .local_shells import local_shells
from .worker_sandbox import alive


async def called(tool: Any, thread: str, command: str, call: str | None = None, **inputs: Any) -> str:
    """Make a call of a thread, and return its result."""

    async def run() -> str:
        calling_thread.set(thread)
        calling_tool_use.set(call)
        return str(await tool.call({"command": command, **inputs}))

    return await asyncio.create_task(run())


@pytest.fixture
def context(tmp_path: Path) -> AgentToolContext:
    return AgentToolContext(workdir=tmp_path)


async def test_each_thread_has_a_shell_of_its_own_and_they_run_at_the_same_time(
    context: AgentToolContext,
) -> None:
    async with local_shells() as shells:
        tool = bash_tool(context, shells)
        # Each waits for the other.
        found = await asyncio.gather(
            called(tool, "", "x=primary; mkfifo a b; echo 1 > a; read y < b; echo $y"),
            called(tool, "sthr_1", "x=helper; until test -p b; do :; done; read y < a; echo 2 > b; echo $y"),
        )
        assert list(found) == ["2", "1"]
        assert [await called(tool, thread, "echo $x") for thread in ("", "sthr_1")] == ["primary", "helper"]


async def test_of_many_shells_the_idle_one_that_was_used_least_recently_is_closed(
    context: AgentToolContext,
) -> None:
    async with local_shells() as shells:
        tool = bash_tool(context, shells)
        pids = [int(await called(tool, f"sthr_{n}", "x=1; echo $$")) for n in range(MOST_SHELLS)]
        assert await called(tool, "sthr_0", "echo $$") == str(pids[0])
        await called(tool, "sthr_new", "true")
        assert [n for n, pid in enumerate(pids) if not alive(pid)] == [1]
        answer = await called(tool, "sthr_1", "echo hello$x")
        assert answer.startswith("[a new shell in ")
        assert f"there were more than {MOST_SHELLS} shells" in answer
        assert answer.endswith("\nhello")


async def test_a_call_that_ran_before_its_worker_ended_is_answered_and_not_run_again(
    context: AgentToolContext,
) -> None:
    host = ShellHost(SharedRecord())
    for _ in range(2):
        async with local_shells(host) as shells:
            tool = bash_tool(context, shells)
            assert await called(tool, "", "echo x >> runs; wc -l < runs", "toolu_1") == "1"
    async with local_shells(host) as shells:
        assert await called(bash_tool(context, shells), "", "wc -l < runs", "toolu_2") == "1"
    host.close()


async def test_a_call_that_is_cancelled_ends_what_it_has_started_and_spares_other_threads(
    context: AgentToolContext, tmp_path: Path
) -> None:
    async with local_shells() as shells:
        tool = bash_tool(context, shells)
        server = int(await called(tool, "", "sleep 1000 >/dev/null 2>&1 & echo $!"))
        other = int(await called(tool, "sthr_1", "echo $$"))
        call = asyncio.create_task(called(tool, "", "sleep 1000 & echo $! > pid; sleep 1000"))
        pid = tmp_path / "pid"

        async def runs() -> bool:
            return pid.exists() and bool(pid.read_text().strip())

        await eventually("the command runs", runs)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        answer = await called(tool, "", "echo hello")
        assert "its command was ended by an interruption" in answer
        assert answer.endswith("\nhello")
        assert not alive(int(pid.read_text()))
        assert alive(server)
        assert await called(tool, "sthr_1", "echo $$") == str(other)
        os.kill(server, signal.SIGKILL)


PAUSED = """
import asyncio, os, sys
from managed_session_worker.awake_time import within

async def until_there():
    print("waits", flush=True)
    while not os.path.exists(sys.argv[1]):
        await asyncio.sleep(0.01)

asyncio.run(within(2.0, until_there()))
"""


def test_time_limits_do_not_run_while_the_sandbox_is_paused(tmp_path: Path) -> None:
    there = tmp_path / "there"
    process = subprocess.Popen([sys.executable, "-c", PAUSED, str(there)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    stopped = os.times().elapsed
    wait_until(lambda: os.times().elapsed - stopped > 3)
    there.touch()
    process.send_signal(signal.SIGCONT)
    process.communicate()
    assert process.returncode == 0
