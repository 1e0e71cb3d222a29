"""Tool calls that end their worker, and what an agent leaves running."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from managed_session_cli.conversation import Conversation

from ...support.arrangements import SHORT_LIMITS
from ...support.sessions import condition, resource, sandboxes_of, warned
from ...support.waiting import eventually
from ..row import Outcome, Play, Row
from ..scenario import Scenario

FAMILY = "calls that end their worker"
ATTEMPTS = 3
"""The setting's default."""


async def _deaths(scenario: Scenario, conversation: Conversation) -> int:
    status = (await resource(scenario.system, conversation.session_id)).get("status", {})
    return max((each["deaths"] for each in status.get("callDeaths", [])), default=0)


async def _dies(scenario: Scenario, conversation: Conversation, times: int) -> None:
    async def look() -> bool:
        return await _deaths(scenario, conversation) >= times

    await eventually(f"{times} deaths are counted", look)


async def _forgotten(scenario: Scenario, conversation: Conversation) -> bool:
    """Written after the pause, so a paused sandbox is no sign of it."""
    status = (await resource(scenario.system, conversation.session_id))["status"]
    fatal = await condition(scenario.system, conversation.session_id, "ToolCallFatal")
    return "callDeaths" not in status and fatal["status"] == "False"


async def _runs(scenario: Scenario, conversation: Conversation) -> int:
    (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
    return sandbox.path("/mnt/session/runs").read_text().count("x")


def _ends_its_worker(
    command: str, cause: str, between: Callable[[Scenario], Awaitable[None]] | None = None
) -> Play:
    """The command ends its worker whenever it is run."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        await scenario.send(conversation, f"Run: echo x >> /mnt/session/runs; {command}")
        await _dies(scenario, conversation, 1)
        fatal = await condition(scenario.system, conversation.session_id, "ToolCallFatal")
        assert fatal["status"] == "True"
        if between is not None:
            await between(scenario)
        answer = await conversation.answer()
        assert re.search(f"ended the worker {ATTEMPTS} times: {cause}", answer), answer
        assert await _runs(scenario, conversation) == ATTEMPTS
        await warned(scenario.system, conversation.session_id, "ToolCallGivenUp")
        assert "on" in await scenario.say(conversation, "Run: echo on")
        await scenario.settled(conversation)
        await eventually("the deaths are forgotten", lambda: _forgotten(scenario, conversation))

    return play


async def _operator_dies(scenario: Scenario) -> None:
    await scenario.system.operator.kill()
    await scenario.system.operator.restart()


async def _its_sandbox_vanishes(scenario: Scenario) -> None:
    """With its supervisor, so that the session's events have to tell which call ran."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: sleep 61.7")
    for _ in range(ATTEMPTS):

        async def running() -> str | None:
            for sandbox in await sandboxes_of(scenario.system, conversation.session_id, "running"):
                if any("sleep 61.7" in process.command for process in sandbox.processes):
                    return sandbox.id
            return None

        await scenario.system.e2b_admin.vanish(await eventually("the call runs", running))
    assert f"ended the worker {ATTEMPTS} times: its sandbox vanished" in await conversation.answer()


async def _server_lives_on(scenario: Scenario) -> None:
    """A server that an agent started is there in the next turn, with its output."""
    conversation = await scenario.begin()
    server = "python3 -u -c $'import time\\nwhile 1: print(1); time.sleep(.1)' & echo pid $!"
    answer = await scenario.say(conversation, f"Run: {server}")
    (pid,) = re.findall(r"pid (\d+)", answer)
    (log,) = re.findall(r"their output: (\S+)", answer)
    await scenario.settled(conversation)
    writes = f"size=$(stat -c %s {log}); sleep 1; test $(stat -c %s {log}) -gt $size"
    alive = f"kill -0 {pid} && {writes} && echo lives"
    assert "lives" in await scenario.say(conversation, f"Run: {alive}")


async def _shell_ends(scenario: Scenario) -> None:
    """It ends with a process in the background, and in a time-out; both times the turn goes on."""
    conversation = await scenario.begin()
    for command in ("(sleep 25 &); exit 3", "kill -9 $$", "exec true"):
        assert "shell has ended" in await scenario.say(conversation, f"Run: {command}")
    assert "hello" in await scenario.say(conversation, "Run: echo hello")


def _row(name: str, play: Play, **outcome: Any) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS, outcome=Outcome(**outcome))


WORKER = "$(pgrep -x session-worker)"
KILLED = r"killed \(signal 9\)"
ALL_KILLED = rf"({KILLED}|killed with its supervisor)"
"""The simulated sandbox's supervisor is the same user where it may not change it."""
ROWS = [
    _row("a tool call kills its worker each time", _ends_its_worker(f"kill -9 {WORKER}; sleep 60", KILLED)),
    _row(
        "a tool call kills its worker each time, and the operator dies meanwhile",
        _ends_its_worker(f"kill -9 {WORKER}; sleep 60", KILLED, _operator_dies),
    ),
    _row("a tool call kills all of its user each time", _ends_its_worker("kill -9 -1", ALL_KILLED)),
    _row(
        "a tool call freezes its worker each time",
        _ends_its_worker(f"kill -STOP {WORKER}; sleep 60", "it hung or froze until its lease had lapsed"),
    ),
    _row("the sandbox of a tool call vanishes each time", _its_sandbox_vanishes, sandboxes=ATTEMPTS + 1),
    _row("the agent starts a server in the background", _server_lives_on),
    _row("the agent's shell ends", _shell_ends),
]
