"""Leases that last as long as Anthropic's do: heartbeats whose answers are lost."""

from __future__ import annotations

import re

from ...support.sessions import becomes, condition, resyncs_pass
from ..anthropic_side import ANSWER_LOST, WORKER, Action, Fault, Play, answered, in_first_turn
from ..row import Row
from ..scenario import Scenario

FAMILY = "anthropic lease"

ANSWERS: list[tuple[str, Action]] = [
    ("is lost", ANSWER_LOST),
    ("is an error 503 although it took effect", answered(503, after_commit=True)),
]


def _one_lease(play: Play) -> Play:
    """The worker that began goes on: nobody has to wait until its lease has lapsed."""

    async def played(scenario: Scenario) -> None:
        await play(scenario)
        (session_id,) = scenario.sessions
        report = await scenario.system.anthropic_admin.session(session_id)
        assert report.counts["leases"] == 1

    return played


async def _lease_of_unknown_owner(scenario: Scenario) -> None:
    """A first heartbeat's answer is lost, and the next one does not say who holds the lease."""
    conversation = await scenario.begin()
    match = {**WORKER, "work_id": conversation.session_id}
    await Fault("work.heartbeat", ANSWER_LOST, match=match).inject(scenario)
    struck = await Fault("work.heartbeat", answered(412), match=match).inject(scenario)
    await scenario.send(conversation, "Run: echo served")
    await struck.wait()
    await becomes(scenario.system, conversation.session_id, "AwaitingLease")
    await resyncs_pass(scenario.system, 3)
    ready = await condition(scenario.system, conversation.session_id)
    assert ready["reason"] == "AwaitingLease"
    assert re.search(r"expires by \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", ready["message"])
    await scenario.system.anthropic_admin.lapse_lease(conversation.session_id)
    assert "served" in await conversation.answer()


ROWS = [
    *(
        Row(
            FAMILY,
            f"the answer to the first heartbeat {name}",
            _one_lease(in_first_turn(Fault("work.heartbeat", action, match=WORKER))),
        )
        for name, action in ANSWERS
    ),
    Row(FAMILY, "it can't be known whose lease the first heartbeat has met", _lease_of_unknown_owner),
]
