"""What the soak has found: faults that meet, each with what must hold all the same."""

from __future__ import annotations

from managed_session_cli.conversation import Conversation

from ...support.arrangements import QUEUE_ONLY
from ...support.sessions import condition, sandboxes_of
from ...support.waiting import eventually
from ..anthropic_side import WORKER, Fault, answered, in_first_turn
from ..effects import Effect
from ..kubectl_actions import delete
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "found by the soak"


async def _served_and_not_written_down(scenario: Scenario) -> Conversation:
    """A turn is served whole, and the operator is killed before it has written the heartbeat down."""
    conversation = await scenario.begin()
    held = await scenario.hold(Effect("kubernetes", "status: heartbeat"), after_commit=False)
    await scenario.send(conversation, "Run: echo kept | tee /mnt/session/file")
    assert "kept" in await conversation.answer()
    await held.reached()
    await scenario.system.operator.kill()
    held.lose()
    await scenario.calm()

    async def stopped() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return report.work is not None and report.work["state"] == "stopped"

    await eventually("the worker has ended", stopped)
    return conversation


async def _vanish(scenario: Scenario, conversation: Conversation) -> None:
    (sandbox,) = await sandboxes_of(scenario.system, conversation.session_id)
    await scenario.system.e2b_admin.vanish(sandbox.id)


async def _workspace_lost(scenario: Scenario, conversation: Conversation) -> None:
    async def look() -> bool:
        lost = await condition(scenario.system, conversation.session_id, "WorkspaceLost")
        return lost.get("status") == "True"

    await eventually("WorkspaceLost is True", look)


async def _vanishes_before_the_turn_is_written_down(scenario: Scenario) -> None:
    conversation = await _served_and_not_written_down(scenario)
    await _vanish(scenario, conversation)
    await scenario.system.operator.restart()
    await _workspace_lost(scenario, conversation)
    assert "No such file" in await scenario.say(conversation, "Run: cat /mnt/session/file 2>&1")


async def _vanishes_before_the_next_claim(scenario: Scenario) -> None:
    conversation = await _served_and_not_written_down(scenario)
    await scenario.send(conversation, "Run: cat /mnt/session/file 2>&1")
    await _vanish(scenario, conversation)
    await scenario.system.operator.restart()
    assert "No such file" in await conversation.answer()
    await _workspace_lost(scenario, conversation)


async def _message_while_the_lost_claim_is_given_up(scenario: Scenario) -> None:
    conversation = await _served_and_not_written_down(scenario)
    await _vanish(scenario, conversation)
    held = await scenario.hold_for_later(Effect("e2b", "process_start"), "operator-1")
    await scenario.system.operator.restart()
    await held.reached()
    await scenario.send(conversation, "Run: cat /mnt/session/file 2>&1")

    async def queued() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return report.work is not None and report.work["state"] == "queued"

    await eventually("the message's work is queued", queued)
    await held.arrive()
    assert "No such file" in await conversation.answer()
    await _workspace_lost(scenario, conversation)


async def _deleted_with_work_of_the_next_message(scenario: Scenario) -> None:
    conversation = await _served_and_not_written_down(scenario)
    await scenario.send(conversation, "Run: cat /mnt/session/file 2>&1")
    await delete(scenario, conversation)
    await scenario.system.operator.restart()
    assert "No such file" in await conversation.answer()
    await scenario.settled(conversation)


ROWS = [
    Row(
        FAMILY,
        "the sandbox vanishes with a turn that the operator did not live to write down",
        _vanishes_before_the_turn_is_written_down,
        arrangement=QUEUE_ONLY,
        outcome=Outcome(sandboxes=2),
    ),
    Row(
        FAMILY,
        "the sandbox vanishes with a turn that was not written down, and the next message is claimed",
        _vanishes_before_the_next_claim,
        arrangement=QUEUE_ONLY,
        outcome=Outcome(sandboxes=2),
    ),
    Row(
        FAMILY,
        "a message is queued while a claim whose token is gone is given up: its work is not stopped",
        _message_while_the_lost_claim_is_given_up,
        arrangement=QUEUE_ONLY,
        outcome=Outcome(sandboxes=2),
    ),
    Row(
        FAMILY,
        "a resource with a turn that was not written down is deleted: the next message's work is not stopped",
        _deleted_with_work_of_the_next_message,
        arrangement=QUEUE_ONLY,
        outcome=Outcome(sandboxes=2),
    ),
    Row(
        FAMILY,
        "the worker's list of events fails more often than its SDK tries, and its stream stays open",
        in_first_turn(Fault("events.list", answered(503), times=5, match=WORKER)),
    ),
]
