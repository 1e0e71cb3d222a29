"""Messages whose work is stopped before they are served: a worker serves them without a lease."""

from __future__ import annotations

import json

from managed_session_api import names
from managed_session_cli.conversation import Conversation, text_of
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox

from ...support.arrangements import IMPATIENT
from ...support.held import WAIT, let_go
from ...support.sessions import resource, resyncs_pass, sandboxes_of, told
from ...support.waiting import eventually
from ..anthropic_side import (
    OPERATOR,
    WORKER,
    Fault,
    Play,
    count_is,
    hanging,
    offer_without_operator,
    slow_at_first,
    somebody_stops,
    stale_offers,
    tool_runs,
    user_sends,
    with_work_settings,
    work_is,
)
from ..kubectl_actions import name_of
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "anthropic late messages"


async def _message_during_the_stop(scenario: Scenario, text: str) -> Conversation:
    """A turn, and a message between its worker's decision to leave and the processing of its stop."""
    conversation = await scenario.begin()
    match = {**WORKER, "work_id": conversation.session_id}
    stop = Fault("work.stop", {"action": "hang", "seconds": 60}, match=match)
    struck = await stop.inject(scenario)
    assert "first" in await scenario.say(conversation, "Run: echo first")
    await struck.wait()
    await scenario.send(conversation, text)
    await scenario.system.anthropic_admin.clear_faults()
    return conversation


async def _late_call(scenario: Scenario) -> tuple[Conversation, SimulatedSandbox]:
    """A late message is served, as its resource and an Event say; its call lasts until it is let go."""
    conversation = await _message_during_the_stop(scenario, f"Run: echo x >> runs; {WAIT}; cat runs")

    async def runs() -> SimulatedSandbox | None:
        running = await sandboxes_of(scenario.system, conversation.session_id, "running")
        return next((each for each in running if each.path("/mnt/session/runs").exists()), None)

    sandbox = await eventually("the late message's call runs", runs)
    await told(scenario.system, conversation.session_id, "ServingLateMessage")
    return conversation, sandbox


async def _served_once(scenario: Scenario, conversation: Conversation) -> None:
    """The late message was served by the worker that was there, and the next one is served as ever."""
    await told(scenario.system, conversation.session_id, "ServingLateMessage")
    await scenario.settled(conversation)
    report = await scenario.system.anthropic_admin.session(conversation.session_id)
    assert report.counts["leases"] == 1
    assert "next" in await scenario.say(conversation, "Run: echo next")


async def _served(scenario: Scenario) -> None:
    """Nobody else would serve it."""
    conversation = await _message_during_the_stop(scenario, "Run: echo late")
    assert "late" in await conversation.answer()
    await _served_once(scenario, conversation)


async def _queued_again_while_served(scenario: Scenario) -> None:
    """Its user speaks again while the agent thinks: the new work waits for the running call."""
    calls = [
        {"tool": "bash", "input": {"command": command}}
        for command in ("echo a >> runs; sleep 8.31", "echo b >> runs")
    ]
    # Long enough for the message below: none is taken while the agent waits for a result.
    script = json.dumps({"script": [{"sleep_ms": 4000}, *calls, {"say": "done"}]})
    conversation = await _message_during_the_stop(scenario, script)
    await eventually("it is written down", lambda: _serves_late(scenario, conversation))
    await scenario.send(conversation, "Run: cat runs")
    await tool_runs(scenario, conversation, "sleep 8.31")
    await count_is(scenario, conversation, "turns_answered", 3)

    async def said() -> bool:
        messages = [text_of(event) for event in conversation.events if event.type == "agent.message"]
        return messages[-1].split() == ["a", "b"]

    await eventually("both calls have run once, and in their order", said)
    report = await scenario.system.anthropic_admin.session(conversation.session_id)
    assert report.counts["leases"] == 2, "the new work had a worker of its own"


async def _operator_killed(scenario: Scenario) -> None:
    """The operator dies meanwhile: its successor does not take the stopped work for the turn's end."""
    conversation, sandbox = await _late_call(scenario)
    await scenario.system.operator.kill()
    await scenario.system.operator.restart()
    await resyncs_pass(scenario.system, 2)
    let_go(sandbox)
    assert (await conversation.answer()).split() == ["x"]
    await _served_once(scenario, conversation)


async def _paused(scenario: Scenario) -> None:
    """E2B pauses the sandbox meanwhile: it is resumed although no lease is left to save."""
    conversation, sandbox = await _late_call(scenario)
    await scenario.system.e2b_admin.expire(sandbox.id)

    async def paused() -> bool:
        history = (await scenario.system.e2b_admin.sandbox(sandbox.id)).history
        return any(entry["event"] == "paused" for entry in history)

    await eventually("E2B pauses the sandbox", paused)
    let_go(sandbox)
    assert (await conversation.answer()).split() == ["x"]
    await _served_once(scenario, conversation)


async def _suspended(scenario: Scenario) -> None:
    """The resource is suspended meanwhile: the worker is ended, and the sandbox paused."""
    conversation = await _message_during_the_stop(scenario, slow_at_first("sleep 60.43"))
    await tool_runs(scenario, conversation, "sleep 60.43")
    patch = '{"spec":{"lifecycle":{"suspend":%s}}}'
    name = name_of(conversation)
    await scenario.system.kubectl("patch", names.PLURAL, name, "--type=merge", "--patch", patch % "true")
    await scenario.settled(conversation)
    await scenario.system.kubectl("patch", names.PLURAL, name, "--type=merge", "--patch", patch % "false")
    await user_sends(scenario, conversation, type="user.interrupt")
    assert "next" in await scenario.say(conversation, "Run: echo next")


async def _deleted(scenario: Scenario) -> None:
    """The resource is deleted meanwhile; a later message begins anew."""
    conversation = await _message_during_the_stop(scenario, "Run: sleep 8.47")
    await tool_runs(scenario, conversation, "sleep 8.47")
    await scenario.system.kubectl("delete", names.PLURAL, name_of(conversation), "--timeout=30s")
    assert not await sandboxes_of(scenario.system, conversation.session_id, "running", "pausing")
    await user_sends(scenario, conversation, type="user.interrupt")
    assert "next" in await scenario.say(conversation, "Run: echo next")


async def _two(scenario: Scenario) -> None:
    """Another message follows at once, for which work may or may not be queued by then."""
    script = json.dumps({"script": [{"sleep_ms": 500}, {"say": "thought"}]})
    conversation = await _message_during_the_stop(scenario, script)
    await scenario.send(conversation, "Run: echo later")
    await count_is(scenario, conversation, "turns_answered", 3)


async def _queued_again(scenario: Scenario) -> None:
    """The queue offers the work again, and another worker serves it."""
    conversation = await _message_during_the_stop(scenario, "Run: echo late >> runs; cat runs")
    assert (await conversation.answer()).split() == ["late"]
    await scenario.settled(conversation)
    report = await scenario.system.anthropic_admin.session(conversation.session_id)
    assert report.counts["leases"] == 2


async def _first_message_during_the_stop(scenario: Scenario, *, leases: int) -> None:
    """The operator stops the work of a session without a message, which comes in just that moment."""
    conversation = await scenario.begin()
    match = {**OPERATOR, "work_id": conversation.session_id}
    struck = await Fault("work.stop", hanging(60), match=match).inject(scenario)
    await struck.wait()
    await scenario.send(conversation, "Run: echo late")
    await scenario.system.anthropic_admin.clear_faults()
    assert "late" in await conversation.answer()
    await _then_as_ever(scenario, conversation, leases)


async def _unused_work_served_late(scenario: Scenario) -> None:
    """Nobody else would serve it."""
    await _first_message_during_the_stop(scenario, leases=0)


async def _unused_work_queued_again(scenario: Scenario) -> None:
    """The queue offers the work again."""
    await _first_message_during_the_stop(scenario, leases=1)


async def _stopped_before_acknowledgement(scenario: Scenario) -> None:
    """Somebody stops the work that the operator is about to acknowledge."""
    conversation = await scenario.begin()
    item = await offer_without_operator(scenario, conversation, "Run: echo late")
    await somebody_stops(scenario, item["id"], force=True)
    await stale_offers(scenario, item, 1)
    assert "late" in await conversation.answer()
    await _then_as_ever(scenario, conversation, leases=0)


async def _stopped_before_start(scenario: Scenario) -> None:
    """Somebody stops the work before its worker has taken the lease."""
    conversation = await scenario.begin()
    await scenario.system.e2b_admin.add_fault("files_write", {"action": "hang", "seconds": 60}, times=100)
    await scenario.send(conversation, "Run: echo late")
    item = await work_is(scenario, conversation, "starting")
    await somebody_stops(scenario, item["id"], force=True)
    await scenario.calm()
    assert "late" in await conversation.answer()
    await _then_as_ever(scenario, conversation, leases=0)


async def _then_as_ever(scenario: Scenario, conversation: Conversation, leases: int) -> None:
    """The message had a worker with so many leases; the next one is served as ever."""
    if not leases:
        await told(scenario.system, conversation.session_id, "ServingLateMessage")
    await scenario.settled(conversation)
    report = await scenario.system.anthropic_admin.session(conversation.session_id)
    assert report.counts["leases"] == leases
    assert "next" in await scenario.say(conversation, "Run: echo next")


async def _serves_late(scenario: Scenario, conversation: Conversation) -> bool:
    status = (await resource(scenario.system, conversation.session_id)).get("status", {})
    return "servingLateSince" in status.get("work", {})


def _row(name: str, play: Play, outcome: Outcome = Outcome()) -> Row:  # noqa: B008 - immutable
    return Row(FAMILY, name, play, outcome=outcome)


ROWS = [
    _row("a message comes while the worker stops", _served),
    _row("two messages come while the worker stops", _two),
    _row("its user speaks again while a late message is served", _queued_again_while_served),
    _row("the operator is killed while a late message is served", _operator_killed),
    _row("the sandbox is paused while a late message is served", _paused),
    _row("the session is suspended while a late message is served", _suspended),
    _row("the resource is deleted while a late message is served", _deleted, Outcome(sandboxes=2)),
    Row(
        FAMILY,
        "a message comes while the worker stops, in a queue that queues its work again",
        with_work_settings(_queued_again, requeue_unanswered_on_stop=True),
    ),
    Row(
        FAMILY,
        "the first message comes while the unused work is stopped",
        _unused_work_served_late,
        IMPATIENT,
    ),
    Row(
        FAMILY,
        "the first message comes while the unused work is stopped, in a queue that queues it again",
        with_work_settings(_unused_work_queued_again, requeue_unanswered_on_stop=True),
        IMPATIENT,
    ),
    _row(
        "work is stopped by somebody before it is acknowledged",
        with_work_settings(_stopped_before_acknowledgement, enqueue_at_creation=False),
    ),
    _row(
        "work is stopped by somebody before its worker starts",
        with_work_settings(_stopped_before_start, enqueue_at_creation=False),
    ),
]
