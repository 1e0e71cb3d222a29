"""E2B takes longer for a create, resume or pause than a step waits, and cancels what its client leaves."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from managed_session_api import names
from managed_session_cli.conversation import Conversation

from ...support.arrangements import SHORT_LIMITS
from ...support.sessions import condition, sandboxes_of
from ...support.waiting import eventually
from ..row import Outcome, Play, Row
from ..scenario import Scenario

FAMILY = "E2B slow"
SLOW_MILLISECONDS = 9000
"""More than twice as long as a step waits, and longer than the Lease of these tests."""


async def _first_turn(scenario: Scenario) -> Conversation:
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    return conversation


async def _slow(scenario: Scenario, operation: str, milliseconds: int = SLOW_MILLISECONDS) -> None:
    await scenario.system.e2b_admin.clear_ledger()
    await scenario.e2b_settings(latencies={operation: {"mean_ms": milliseconds}})


async def _cancelled(scenario: Scenario) -> list[str]:
    events = (await scenario.system.e2b_admin.ledger()).events
    return [event for event, times in events.items() if event.endswith("_cancelled") and times]


async def _joined(scenario: Scenario, operation: str, conversation: Conversation) -> bool:
    """Whether no call for the session's sandbox was sent while another one was open: it was joined instead.

    A later call may have its reasons, such as a worker's start that was not answered in time.
    """
    ids = {each.id for each in await sandboxes_of(scenario.system, conversation.session_id)}
    calls = (await scenario.system.e2b_admin.ledger(operation=operation)).calls
    sent = sorted(datetime.fromisoformat(call["at"]) for call in calls if call.get("sandboxID") in ids)
    slow = timedelta(milliseconds=SLOW_MILLISECONDS - 500)
    return bool(sent) and all(later - earlier > slow for earlier, later in pairwise(sent))


async def _slow_create(scenario: Scenario) -> None:
    await _slow(scenario, "create")
    conversation = await scenario.begin()
    assert "served" in await scenario.say(conversation, "Run: echo served")
    assert await _cancelled(scenario) == []
    assert await _joined(scenario, "create", conversation)
    assert len(await sandboxes_of(scenario.system, conversation.session_id)) == 1


async def _slow_resume(scenario: Scenario) -> None:
    conversation = await _first_turn(scenario)
    await _slow(scenario, "connect")
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")
    assert await _cancelled(scenario) == []
    assert await _joined(scenario, "connect", conversation)


async def _slow_pause(scenario: Scenario) -> None:
    conversation = await _first_turn(scenario)
    await _slow(scenario, "pause")
    assert "two" in await scenario.say(conversation, "Run: echo two | tee /mnt/session/file")
    await scenario.settled(conversation)
    assert await _cancelled(scenario) == []
    assert await _joined(scenario, "pause", conversation)
    assert "two" in await scenario.say(conversation, "Run: cat /mnt/session/file")
    assert not await condition(scenario.system, conversation.session_id, "WorkspaceLost")


async def _message_during_a_slow_pause(scenario: Scenario) -> None:
    """The next turn waits for what the pause saves, and then finds it."""
    conversation = await _first_turn(scenario)
    await _slow(scenario, "pause")
    assert "two" in await scenario.say(conversation, "Run: echo two | tee /mnt/session/file")

    async def pausing() -> bool:
        return any(each.state == "pausing" for each in await scenario.system.e2b_admin.sandboxes())

    await eventually("the pause is under way", pausing)
    assert "two" in await scenario.say(conversation, "Run: cat /mnt/session/file")
    assert await _cancelled(scenario) == []


async def _ends_in_order(scenario: Scenario, operation: str) -> None:
    """The operator is told to stop while the call is open: it hears the answer, and the next one goes on."""
    conversation = await _first_turn(scenario)
    await _slow(scenario, operation, 6000)
    await scenario.send(conversation, "Run: echo more; cat /mnt/session/file")

    async def under_way() -> bool:
        state = "pausing" if operation == "pause" else "paused"
        calls = (await scenario.system.e2b_admin.ledger(operation=operation)).calls
        mine = [each.state for each in await sandboxes_of(scenario.system, conversation.session_id)]
        return mine == [state] and any("status" not in call for call in calls)

    await eventually("the call is under way", under_way)
    await scenario.system.operator.process.stop(grace_seconds=60)
    assert await _cancelled(scenario) == []
    await scenario.calm()
    await scenario.system.operator.restart()
    assert "kept" in await conversation.answer()


async def _resume_outlives_its_operator(scenario: Scenario) -> None:
    await _ends_in_order(scenario, "connect")


async def _pause_outlives_its_operator(scenario: Scenario) -> None:
    await _ends_in_order(scenario, "pause")


async def _deleted_during_a_slow_create(scenario: Scenario) -> None:
    await _slow(scenario, "create", 40_000)
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo served")

    async def under_way() -> bool:
        calls = (await scenario.system.e2b_admin.ledger(operation="create")).calls
        return any("status" not in call for call in calls)

    await eventually("the create is under way", under_way)
    name = names.resource_name(conversation.session_id)
    await scenario.system.kubectl("delete", names.PLURAL, name, "--timeout=30s")

    async def given_up() -> bool:
        return "create_cancelled" in await _cancelled(scenario)

    await eventually("the create is given up", given_up)
    assert await sandboxes_of(scenario.system, conversation.session_id, "running") == []
    await scenario.calm()
    # Its work was not acknowledged: the queue offers it again, to a new resource.
    assert "served" in await conversation.answer()


def _row(name: str, play: Play, **outcome: Any) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS, outcome=Outcome(**outcome))


ROWS = [
    _row("a create takes longer than the Lease", _slow_create),
    _row("a resume takes longer than the Lease", _slow_resume),
    _row("a pause takes longer than the Lease", _slow_pause),
    _row("a message comes while a pause takes long", _message_during_a_slow_pause),
    _row("the operator is told to stop while a resume takes long", _resume_outlives_its_operator),
    _row("the operator is told to stop while a pause takes long", _pause_outlives_its_operator),
    _row("the resource is deleted while a create takes long", _deleted_during_a_slow_create),
]
