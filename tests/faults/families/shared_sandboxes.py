"""Sandboxes that the sessions of an agent share: made, lost, left and paused while something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from managed_session_api.resource import ManagedSession
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_worker.paths import SESSIONS, Paths

from ...support.arrangements import QUEUE_ONLY, SHORT_LIMITS
from ...support.sessions import resource, written_down
from ...support.shared_sandboxes import GATE, UNTIL_LET_GO, lost, owners
from ...support.waiting import eventually
from ..anthropic_side import is_gone
from ..effects import Effect
from ..kubectl_actions import delete, status
from ..own_class import own_class
from ..row import Outcome, Row
from ..scenario import Held, Scenario

FAMILY = "shared sandboxes"
CREATE, KILL = Effect("e2b", "create"), Effect("e2b", "kill")
BEGUN = "/home/agent/begun"


@asynccontextmanager
async def _team(scenario: Scenario) -> AsyncIterator[tuple[Conversation, Conversation]]:
    """Two sessions of an agent whose sessions share a sandbox."""
    # Each gets a mount namespace, for which root has to be allowed to mount.
    await scenario.e2b_settings(fuse=True)
    async with own_class(scenario, routing={"scope": "agent"}) as agent:
        yield await scenario.begin(agent), await scenario.begin(agent)


async def _only(scenario: Scenario, *states: str) -> SimulatedSandbox:
    """The one sandbox of the row in these states."""
    (sandbox,) = await scenario.shared(*states)
    return sandbox


async def _owner(scenario: Scenario) -> dict[str, Any]:
    """The status of the one ManagedSandbox."""
    (owner,) = await owners(scenario.system)
    found: dict[str, Any] = owner["status"]
    return found


async def _killed_at(scenario: Scenario, held: Held, *, state: str) -> None:
    """The operator dies at the held call, once E2B has the row's one sandbox in this state."""
    await held.reached()
    await eventually(f"E2B has it {state}", lambda: scenario.shared(state))
    await scenario.system.operator.kill()
    held.lose()
    await scenario.calm()


async def _killed_before_the_id_is_recorded(scenario: Scenario) -> None:
    """Both sessions wait for the sandbox that the create has made: the next operator gives them that one."""
    async with _team(scenario) as team:
        held = await scenario.hold(CREATE, after_commit=True)
        for each in team:
            await scenario.send(each, "Run: echo kept > file; cat file")

        async def wait() -> bool:
            sandboxes = [(await status(scenario, each)).get("sandbox", {}) for each in team]
            return all(each.get("sharedBy") and each["state"] == "Creating" for each in sandboxes)

        await eventually("both sessions wait for the sandbox", wait)
        await _killed_at(scenario, held, state="running")
        assert "id" not in await _owner(scenario)
        await scenario.system.operator.restart()
        for each in team:
            assert await each.answer() == "kept"
        for each in team:
            await scenario.settled(each)
        assert (await _owner(scenario))["id"] == (await _only(scenario)).id


async def _vanishes_under_a_worker(scenario: Scenario) -> None:
    """One session is in a call, the other one idle: both go on in the next sandbox, and both say the loss."""
    async with _team(scenario) as (busy, idle):
        assert await scenario.say(idle, "Run: echo kept | tee file") == "kept"
        await scenario.settled(idle)
        await scenario.send(busy, f"Run: touch {BEGUN}; {UNTIL_LET_GO}; echo went on")

        async def runs() -> SimulatedSandbox | None:
            running = await scenario.shared("running")
            return next((each for each in running if each.path(BEGUN).exists()), None)

        former = await eventually("the command runs", runs)
        await scenario.system.e2b_admin.vanish(former.id)
        assert "empty" in await scenario.say(idle, "Run: cat file || echo empty")
        new = await eventually("the command runs again", runs)
        new.path(GATE).touch()
        assert "went on" in await busy.answer()
        for each in (busy, idle):
            await eventually("the loss is reported", lost(scenario.system, each))
            await scenario.settled(each)
        assert {each.id for each in await scenario.shared()} == {former.id, new.id}
        assert (await _owner(scenario))["id"] == new.id


async def _killed_while_the_last_session_goes(scenario: Scenario) -> None:
    """Before that, the first one goes while the sandbox is paused: the other one's files stay."""
    async with _team(scenario) as (first, last):
        await asyncio.gather(*(scenario.say(each, "Run: echo kept > file") for each in (first, last)))
        for each in (first, last):
            await scenario.settled(each)
        sandbox = await _only(scenario)
        await delete(scenario, first)
        await is_gone(scenario, first)
        assert (await _only(scenario, "paused")).resumes == sandbox.resumes, "nothing resumes it for that"
        assert await scenario.say(last, "Run: cat file") == "kept"
        await scenario.settled(last)
        key = ManagedSession.model_validate(await resource(scenario.system, last.session_id)).session_key
        folders = sandbox.path(f"{Paths().home}/{SESSIONS}").iterdir()
        assert [each.name for each in folders] == [key], "the files of the deleted session are gone"

        held = await scenario.hold(KILL, after_commit=True)
        await delete(scenario, last)
        await _killed_at(scenario, held, state="killed")
        assert await _owner(scenario), "its owner is not gone yet"
        await scenario.system.operator.restart()
        await is_gone(scenario, last)
    assert await owners(scenario.system) == []


async def _pause_is_answered_badly(scenario: Scenario) -> None:
    """First late, then never: the turn that begins meanwhile is served in the same sandbox."""
    admin = scenario.system.e2b_admin
    async with _team(scenario) as (idle, busy):
        await asyncio.gather(*(scenario.say(each, "Run: x=kept") for each in (idle, busy)))
        for each in (idle, busy):
            await scenario.settled(each)

        fault = await admin.add_fault("pause", {"action": "hang", "seconds": 60})
        assert await scenario.say(idle, "Run: echo $x") == "kept"
        await _met(scenario, fault["id"])
        await scenario.send(busy, "Run: echo $x")

        async def no_longer_waits() -> bool:
            return await written_down(scenario.system, idle.session_id)

        await eventually("the idle session leaves the pause to the other one", no_longer_waits)
        assert (await _only(scenario)).state == "running", "E2B has not begun the pause"
        await admin.clear_faults()
        assert await busy.answer() == "kept"
        await scenario.settled(busy)

        fault = await admin.add_fault("pause", {"action": "drop_while_in_progress", "seconds": 2})
        assert await scenario.say(idle, "Run: echo $x") == "kept"
        await _met(scenario, fault["id"])
        assert await scenario.say(busy, "Run: echo $x") == "kept"
        for each in (idle, busy):
            await scenario.settled(each)


async def _met(scenario: Scenario, fault: int) -> None:
    """Wait until a call has met the fault."""

    async def look() -> bool:
        return any(each["hits"] for each in await scenario.system.e2b_admin.faults() if each["id"] == fault)

    await eventually("the pause is asked for", look)


ROWS = [
    Row(
        FAMILY,
        "the operator is killed after E2B has made a shared sandbox and before its ID is recorded",
        _killed_before_the_id_is_recorded,
        arrangement=QUEUE_ONLY,
        cuts=(CREATE, True),
    ),
    Row(
        FAMILY,
        "the sandbox vanishes while one session is in a call and the other one idle",
        _vanishes_under_a_worker,
        arrangement=SHORT_LIMITS,
        outcome=Outcome(sandboxes=2),
    ),
    Row(
        FAMILY,
        "the operator is killed while the last session is deleted",
        _killed_while_the_last_session_goes,
        arrangement=QUEUE_ONLY,
        outcome=Outcome(gone=True),
    ),
    Row(
        FAMILY,
        "the pause of one session is answered late, or never, while the other one begins a turn",
        _pause_is_answered_badly,
        arrangement=QUEUE_ONLY,
    ),
]
