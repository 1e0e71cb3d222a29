"""Anthropic's work queue: polls that fail, offers that come twice, late or unusable, lost answers."""

from __future__ import annotations

from itertools import cycle

from ...support.arrangements import IMPATIENT
from ...support.sessions import becomes, sandboxes_of, warned
from ...support.waiting import eventually
from ..anthropic_side import (
    ANSWER_LOST,
    LOST,
    OPERATOR,
    Action,
    Fault,
    Play,
    answered,
    count_is,
    hanging,
    in_first_turn,
    in_second_turn,
    offer_without_operator,
    set_work,
    stale_offers,
    tool_runs,
    two_offers_without_operator,
    user_sends,
    with_work_settings,
    work_is,
)
from ..row import Row
from ..scenario import Scenario

FAMILY = "anthropic queue"

GONE = answered(
    404, body={"type": "error", "error": {"type": "not_found_error", "message": "no such session"}}
)

POLLS: list[tuple[str, Action, int]] = [
    ("a poll is answered 404 for a session that is gone", GONE, 1),
    ("many polls in a row are answered 404", GONE, 30),
    ("polls are answered 403", answered(403), 2),
    ("polls are answered 500", answered(500), 2),
    ("polls are answered 502 with a page of a proxy", answered(502, body="<html>bad gateway</html>"), 2),
    ("polls are answered 503", answered(503), 2),
    ("polls are answered 504", answered(504), 2),
    ("polls are answered 404 with a page of a proxy", answered(404, body="<html>no such page</html>"), 2),
    ("a poll's connection is cut", LOST, 2),
    ("a poll is answered with half a JSON document", answered(200, body='{"type":"work","id":'), 2),
    ("a poll is answered with JSON that is no work", answered(200, body={"type": "surprise"}), 2),
    ("a poll is answered 204", answered(204), 2),
]

ACKS: list[tuple[str, Action, int]] = [
    ("is answered 404", answered(404), 1),
    ("is answered 409", answered(409), 1),
    ("is answered 500 before it took effect", answered(500), 2),
    ("is answered 503 after it took effect", answered(503, after_commit=True), 1),
    ("is lost before it took effect", LOST, 1),
    ("is lost after it took effect", ANSWER_LOST, 1),
]

TURNS = cycle((in_first_turn, in_second_turn))
"""A first turn has a sandbox created, a second one has it resumed; rows take turns at them."""


async def _limited(scenario: Scenario) -> None:
    """The queue is left alone for as long as it says."""
    conversation = await scenario.begin()
    struck = await Fault("work.poll", answered(429, headers={"retry-after": "2"})).inject(scenario)
    await struck.wait()
    assert "served" in await scenario.say(conversation, "Run: echo served")
    calls = (await scenario.system.anthropic_admin.ledger()).calls
    polls = [call for call in calls if call["operation"] == "work.poll"]
    told = next(call["at"] + call["milliseconds"] / 1000 for call in polls if call["status"] == 429)
    # What was sent side by side with it is on its way by then.
    assert not [call for call in polls if told + 0.5 < call["at"] < told + 2]


def _acknowledgement_is(action: Action, reason: str) -> Play:
    """The acknowledgement of a turn's work is refused; the resource says why, and the message is answered."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        struck = await Fault("work.ack", action, match={"work_id": conversation.session_id}).inject(scenario)
        assert "served" in await scenario.say(conversation, "Run: echo served")
        assert await struck.count() == 1
        await warned(scenario.system, conversation.session_id, reason)

    return play


async def _revoked(scenario: Scenario) -> None:
    """The key is revoked; a new one is put in its file, without a restart."""
    system = scenario.system
    before = (system.operator.credentials / "anthropic-environment-key").read_text().strip()
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    await scenario.settled(conversation)
    await system.anthropic_admin.revoke(before)
    try:
        await scenario.send(conversation, "Run: cat file")
        newcomer = await scenario.begin()
        await scenario.send(newcomer, "Run: echo served")
        await becomes(system, newcomer.session_id, "EnvironmentCredentialRejected")
    finally:
        _, key = await system.anthropic_admin.add_environment(system.clouds.environment_id)
        system.operator.set_credential("anthropic-environment-key", key)
    assert "kept" in await conversation.answer()
    assert "served" in await newcomer.answer()


async def _offers_lost(scenario: Scenario) -> None:
    """Every answer that carries the work is lost, several times."""
    await (await Fault("work.poll", ANSWER_LOST, times=None).inject(scenario)).wait()
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo served")
    await count_is(scenario, conversation, "work_offered", 2)
    await scenario.calm()
    assert "served" in await conversation.answer()


async def _offered_twice(scenario: Scenario) -> None:
    """Two polls are answered with the same item."""
    conversation = await scenario.begin()
    item = await offer_without_operator(scenario, conversation, "Run: echo served")
    await stale_offers(scenario, item, 2)
    assert "served" in await conversation.answer()


async def _offered_again_while_served(scenario: Scenario) -> None:
    """An item comes again after its worker has begun."""
    conversation = await scenario.begin()
    item = await offer_without_operator(scenario, conversation, "Run: sleep 6.21; echo served")
    await stale_offers(scenario, item, 1)
    await tool_runs(scenario, conversation, "sleep 6.21")
    await stale_offers(scenario, item, 2)
    assert "served" in await conversation.answer()


async def _offered_again_after_the_turn(scenario: Scenario) -> None:
    """An item comes again when its turn is over: there is nothing to do for it."""
    conversation = await scenario.begin()
    item = await offer_without_operator(scenario, conversation, "Run: echo served")
    await stale_offers(scenario, item, 1)
    assert "served" in await conversation.answer()
    await scenario.settled(conversation)
    await work_is(scenario, conversation, "stopped")
    await stale_offers(scenario, item, 1)
    assert "again" in await scenario.say(conversation, "Run: echo again")


async def _offered_again_during_acknowledgement(scenario: Scenario) -> None:
    """The acknowledgement takes longer than the reclaim window, so the item is offered once more."""
    conversation = await scenario.begin()
    ack = Fault("work.ack", hanging(5), match={"work_id": conversation.session_id})
    struck = await ack.inject(scenario)
    await scenario.send(conversation, "Run: echo served")
    await struck.wait()
    await count_is(scenario, conversation, "work_offered", 2)
    assert "served" in await conversation.answer()


async def _offered_again_between_acknowledgement_and_start(scenario: Scenario) -> None:
    """An item comes again when it was acknowledged and its worker not started yet."""
    conversation = await scenario.begin()
    item = await offer_without_operator(scenario, conversation, "Run: echo served")
    start = {"action": "hang", "seconds": 2}
    await scenario.system.e2b_admin.add_fault("files_write", start)
    await stale_offers(scenario, item, 1)
    await work_is(scenario, conversation, "starting", "active")
    await stale_offers(scenario, item, 1)
    assert "served" in await conversation.answer()


async def _newer_token_before_the_start(scenario: Scenario) -> None:
    """The newest token comes when the work was acknowledged with an older one and not started yet."""
    conversation = await scenario.begin()
    first, second = await two_offers_without_operator(scenario, conversation, "Run: echo served")
    await scenario.system.e2b_admin.add_fault("files_write", {"action": "hang", "seconds": 2})
    await stale_offers(scenario, first, 1)
    await work_is(scenario, conversation, "starting")
    await stale_offers(scenario, second, 1)
    assert "served" in await conversation.answer()


async def _newer_token_after_the_start(scenario: Scenario) -> None:
    """It comes when the worker was started with an older one, which is refused then."""
    conversation = await scenario.begin()
    first, second = await two_offers_without_operator(scenario, conversation, "Run: echo served")
    beat = await Fault("work.heartbeat", hanging(2), match={"work_id": first["id"]}).inject(scenario)
    session = {"session_id": conversation.session_id}
    await Fault("sessions.get", hanging(2), match=session).inject(scenario)
    await stale_offers(scenario, first, 1)
    await beat.wait()
    await stale_offers(scenario, second, 1)
    assert "served" in await conversation.answer()


async def _offered_again_without_its_token(scenario: Scenario) -> None:
    """The secret may be left out when an item is offered again: the first one's is still good."""
    conversation = await scenario.begin()
    ack = Fault("work.ack", LOST, times=None, match={"work_id": conversation.session_id})
    struck = await ack.inject(scenario)
    await scenario.send(conversation, "Run: echo served")
    await struck.wait()
    await set_work(scenario, issue_secrets=False)
    await count_is(scenario, conversation, "work_offered", 3)
    await scenario.system.anthropic_admin.clear_faults()
    assert "served" in await conversation.answer()


async def _no_token(scenario: Scenario) -> None:
    """The offer carries no secret: nothing is started, and the resource says so."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo never")
    condition = await becomes(scenario.system, conversation.session_id, "NoSessionToken")
    assert "environment key" in condition["message"]

    async def none_runs() -> bool:
        return not await sandboxes_of(scenario.system, conversation.session_id, "running", "pausing")

    await eventually("the sandbox that the webhook's word has prepared is paused", none_runs)
    assert not (await scenario.system.anthropic_admin.session(conversation.session_id)).counts["leases"]
    await work_is(scenario, conversation, "stopped")
    await scenario.system.anthropic_admin.change_settings(work={"issue_secrets": True})
    await user_sends(scenario, conversation, type="user.interrupt")
    assert "served" in await scenario.say(conversation, "Run: echo served")


async def _work_ids(scenario: Scenario) -> None:
    """Work has IDs of its own; a restart in the middle finds the item again."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
    await scenario.settled(conversation)
    await scenario.send(conversation, "Run: sleep 6.17; cat file")
    await tool_runs(scenario, conversation, "sleep 6.17")
    await scenario.system.operator.kill()
    await scenario.system.operator.restart()
    assert "kept" in await conversation.answer()


async def _health_checks(scenario: Scenario) -> None:
    """Health checks stand in the queue before, between and behind the session's work."""
    admin = scenario.system.anthropic_admin
    conversation = await scenario.begin()
    checks = [await admin.add_healthcheck() for _ in range(3)]
    await scenario.send(conversation, "Run: echo served")
    checks.append(await admin.add_healthcheck())
    assert "served" in await conversation.answer()

    async def stopped() -> bool:
        items, _ = await admin.work()
        return all(item["state"] == "stopped" for item in items if item["id"] in checks)

    await eventually("the health checks are acknowledged and stopped", stopped)


async def _health_check_fails(scenario: Scenario) -> None:
    """The acknowledgement of a health check fails; sessions are served."""
    # Nothing else is queued, and the operator is quick to acknowledge what is.
    struck = await Fault("work.ack", answered(500), times=2).inject(scenario)
    await scenario.system.anthropic_admin.add_healthcheck()
    await struck.wait(2)
    conversation = await scenario.begin()
    assert "served" in await scenario.say(conversation, "Run: echo served")


async def _hanging_stop(scenario: Scenario) -> None:
    """The stop of a session's unused work hangs past the operator's limit; a later message is served."""
    conversation = await scenario.begin()
    struck = await Fault("work.stop", hanging(8), match=OPERATOR).inject(scenario)
    await struck.wait()
    await work_is(scenario, conversation, "stopped")
    assert "served" in await scenario.say(conversation, "Run: echo served")


def _by_message(play: Play) -> Play:
    """Play where a session's work is queued by its message and not before."""
    return with_work_settings(play, enqueue_at_creation=False)


ROWS = [
    *(
        Row(FAMILY, name, in_first_turn(Fault("work.poll", action, times=times)))
        for name, action, times in POLLS
    ),
    Row(FAMILY, "a poll is answered 429 with Retry-After", _limited),
    Row(FAMILY, "a poll hangs", in_first_turn(Fault("work.poll", hanging(8)))),
    Row(FAMILY, "answers with work are lost", _offers_lost),
    Row(FAMILY, "the environment key is revoked and replaced", _revoked),
    *(
        Row(FAMILY, f"an acknowledgement {name}", play(Fault("work.ack", action, times=times)))
        for play, (name, action, times) in zip(TURNS, ACKS, strict=False)
    ),
    Row(
        FAMILY,
        "an acknowledgement is answered 429",
        _acknowledgement_is(answered(429, headers={"retry-after": "1"}), "EnvironmentRateLimited"),
    ),
    Row(
        FAMILY,
        "an acknowledgement is answered 400",
        _acknowledgement_is(answered(400), "EnvironmentRequestRejected"),
    ),
    Row(FAMILY, "an acknowledgement hangs", in_second_turn(Fault("work.ack", hanging(8)))),
    Row(
        FAMILY,
        "an acknowledgement's answer hangs",
        in_second_turn(Fault("work.ack", hanging(8, after_commit=True))),
    ),
    Row(FAMILY, "the stop of unused work hangs", _hanging_stop, IMPATIENT),
    Row(FAMILY, "two polls are answered with the same work", _by_message(_offered_twice)),
    Row(FAMILY, "work is offered again while its worker runs", _by_message(_offered_again_while_served)),
    Row(FAMILY, "work is offered again after its turn", _by_message(_offered_again_after_the_turn)),
    Row(FAMILY, "work is offered again while it is acknowledged", _offered_again_during_acknowledgement),
    Row(
        FAMILY,
        "work is offered again between acknowledgement and start",
        _by_message(_offered_again_between_acknowledgement_and_start),
    ),
    *(
        Row(FAMILY, name, with_work_settings(play, only_newest_token=True, enqueue_at_creation=False))
        for name, play in (
            ("a newer token comes between acknowledgement and start", _newer_token_before_the_start),
            ("a newer token comes after the start with a refused one", _newer_token_after_the_start),
        )
    ),
    Row(
        FAMILY,
        "work is offered again without its token",
        with_work_settings(_offered_again_without_its_token, issue_secrets=True, enqueue_at_creation=False),
    ),
    Row(FAMILY, "an offer comes without a token", with_work_settings(_no_token, issue_secrets=False)),
    Row(FAMILY, "work has IDs of its own", with_work_settings(_work_ids, item_ids="work")),
    Row(FAMILY, "health checks stand between the work", _health_checks),
    Row(FAMILY, "a health check can't be acknowledged", _health_check_fails),
]
