"""A sandbox that is being prepared: its script, and the hooks around its pauses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from managed_session_cli.conversation import Conversation

from ...support.sessions import becomes, sandboxes_of, warned
from ...support.waiting import eventually
from ..own_class import own_class
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "setup"
HELD = "touch begun; while [ ! -e go ]; do sleep 0.1; done; echo made > made"
HANGS_ONCE = "[ -e again ] || { touch again; sleep 1000; }; echo made > made"
READ = "Run: cat made"


@asynccontextmanager
async def _prepared(scenario: Scenario, **sandbox: Any) -> AsyncIterator[Conversation]:
    """A session whose class says how its sandbox is prepared."""
    async with own_class(scenario, sandbox=sandbox) as agent:
        yield await scenario.begin(agent)


async def _setup_runs(scenario: Scenario, conversation: Conversation) -> str:
    """Wait until the script has begun, and return the sandbox."""

    async def look() -> str | None:
        running = await sandboxes_of(scenario.system, conversation.session_id, "running")
        return next((each.id for each in running if each.path("/mnt/session/begun").exists()), None)

    return await eventually("the setup runs", look)


async def _let_go(scenario: Scenario, conversation: Conversation) -> None:
    for sandbox in await sandboxes_of(scenario.system, conversation.session_id, "running"):
        sandbox.path("/mnt/session/go").touch()


async def _operator_is_killed(scenario: Scenario) -> None:
    async with _prepared(scenario, setup={"script": HELD}) as conversation:
        await scenario.send(conversation, READ)
        await _setup_runs(scenario, conversation)
        await scenario.system.operator.kill()
        await _let_go(scenario, conversation)
        await scenario.system.operator.restart()
        assert await conversation.answer() == "made"


async def _sandbox_is_lost(scenario: Scenario) -> None:
    async with _prepared(scenario, setup={"script": HELD}) as conversation:
        await scenario.send(conversation, READ)
        first = await _setup_runs(scenario, conversation)
        await scenario.system.e2b_admin.vanish(first)
        second = await _setup_runs(scenario, conversation)
        assert second != first
        await _let_go(scenario, conversation)
        assert await conversation.answer() == "made"


async def _setup_hangs(scenario: Scenario) -> None:
    async with _prepared(scenario, setup={"script": HANGS_ONCE, "timeoutSeconds": 2}) as conversation:
        await scenario.send(conversation, READ)
        failed = await becomes(scenario.system, conversation.session_id, "SetupFailed")
        assert "longer than 2 seconds" in failed["message"]
        assert await conversation.answer() == "made"


async def _hook_hangs(scenario: Scenario) -> None:
    hooks = {"beforePause": {"command": "sleep 1000", "timeoutSeconds": 1}}
    async with _prepared(scenario, hooks=hooks) as conversation:
        assert await scenario.say(conversation, "Run: echo one") == "one"
        await scenario.settled(conversation)
        await warned(scenario.system, conversation.session_id, "HookFailed")
        assert await scenario.say(conversation, "Run: echo two") == "two"


ROWS = [
    # The verdict takes every process that is started for a worker.
    Row(FAMILY, "the sandbox is lost while the setup runs", _sandbox_is_lost, outcome=Outcome(sandboxes=2)),
    *(
        Row(FAMILY, name, play)
        for name, play in (
            ("the operator is killed while the setup runs", _operator_is_killed),
            ("the setup hangs", _setup_hangs),
            ("the hook before a pause hangs", _hook_hangs),
        )
    ),
]
