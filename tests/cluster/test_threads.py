"""Threads of a session in a whole system: side by side, through a pause, a lost sandbox and an interrupt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, begin, paused, resource, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


def bash(command: str, **fields: Any) -> dict[str, Any]:
    return {"tool": "bash", "input": {"command": command}, **fields}


def threads_then(*threads: dict[str, Any], last: str) -> str:
    """A message for which each thread makes one call, and then the session one more."""
    steps = [{"threads": [[call] for call in threads]}, bash(last), {"say": "{result}"}]
    return json.dumps({"script": steps})


def meet(mine: str, theirs: str) -> dict[str, Any]:
    """A call that ends only beside another one."""
    wait = f"until test -e {theirs}; do sleep .05; done"
    return bash(f"touch {mine}; {wait}; echo met", expect="^met$")


async def runs(system: LocalSystem, conversation: Conversation, command: str) -> str | None:
    """The sandbox in which a command runs."""
    for sandbox in await sandboxes_of(system, conversation.session_id, "running"):
        if any(command in process.command for process in sandbox.processes):
            return sandbox.id
    return None


async def trouble(system: LocalSystem, conversation: Conversation) -> tuple[int, ...]:
    counts = (await system.anthropic_admin.session(conversation.session_id)).counts
    return tuple(counts[name] for name in ("results_rejected", "results_repeated", "script_mismatches"))


async def test_calls_of_threads_meet_before_and_after_a_pause(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        for number in (1, 2):
            one, two = f"one{number}", f"two{number}"
            message = threads_then(meet(one, two), meet(two, one), last="ls one* two* | wc -l")
            assert await conversation.say(message) == str(2 * number)
            await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert await trouble(system, conversation) == (0, 0, 0)


async def test_calls_of_all_threads_are_made_again_when_their_sandbox_is_lost(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        session_id = conversation.session_id
        assert await conversation.say("Run: echo kept") == "kept"
        await conversation.send(
            threads_then(bash("sleep 501 || true"), bash("sleep 502 || true"), last="echo done")
        )
        for command in ("sleep 501", "sleep 502"):
            lost = await eventually(f"{command} runs", lambda: runs(system, conversation, command))  # noqa: B023

        async def heartbeat() -> bool:
            return "firstHeartbeatAt" in (await resource(system, session_id))["status"].get("work", {})

        await eventually("the heartbeat is written down", heartbeat)
        await system.e2b_admin.vanish(lost)

        async def noted() -> bool:
            return bool((await resource(system, session_id))["status"].get("callDeaths"))

        await eventually("the loss is written down", noted)
        await system.anthropic_admin.lapse_lease(session_id)

        async def again() -> bool:
            found = [await runs(system, conversation, f"sleep {number}") for number in (501, 502)]
            return None not in found and lost not in found

        await eventually("both calls run again", again)
        deaths = (await resource(system, session_id))["status"]["callDeaths"]
        assert [each["deaths"] for each in deaths] == [1, 1]
        for sandbox in await sandboxes_of(system, session_id, "running"):
            for number in (501, 502):
                await system.e2b_admin.kill_processes(sandbox.id, contains=f"sleep {number}")
        assert (await conversation.answer()).splitlines()[-1] == "done"
        assert await trouble(system, conversation) == (0, 0, 0)


async def test_an_interrupt_ends_long_calls_of_all_threads_and_the_next_message_is_served(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        await conversation.send(threads_then(bash("sleep 603"), bash("sleep 604"), last="true"))
        for number in (603, 604):
            await eventually("it runs", lambda: runs(system, conversation, f"sleep {number}"))  # noqa: B023
        events: Any = [{"type": "user.interrupt"}]
        await system.user.beta.sessions.events.send(conversation.session_id, events=events)
        assert await conversation.say("Run: pgrep -f '[s]leep 60' || echo none") == "none"
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert await trouble(system, conversation) == (0, 0, 0)
