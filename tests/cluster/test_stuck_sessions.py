"""Sessions for which nothing would ever happen again: seen in two resyncs, then recovered or said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, condition, paused, resource, warned
from ..support.systems import local_system
from ..support.waiting import eventually

API_KEY = "anthropic-api-key"
WITH_KEY = pytest.mark.parametrize("system", [True], indirect=True, ids=["with an API key"])
WITHOUT_KEY = pytest.mark.parametrize("system", [False], indirect=True, ids=["without an API key"])


@pytest.fixture(scope="module")
async def shared(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    settings = {**QUICK, "attach_timeout_seconds": "3"}
    # Otherwise what comes while a worker stops is served by that worker.
    refusing = {"events": {"results_without_lease": "reject"}}
    async with local_system(
        control_plane, operator_settings=settings, anthropic_settings=refusing
    ) as running:
        yield running


@pytest.fixture
async def system(shared: LocalSystem, request: pytest.FixtureRequest) -> AsyncIterator[LocalSystem]:
    """The system, with or without an API key."""
    shared.operator.set_credential(API_KEY, shared.api_key if request.param else None)
    yield shared
    await shared.anthropic_admin.clear_faults()


async def strand(system: LocalSystem, text: str | None) -> Conversation:
    """A session whose work somebody else acknowledged and left, before any operator saw it."""
    await system.operator.kill()
    session = await system.user.beta.sessions.create(
        agent=system.agent_id, environment_id=system.clouds.environment_id
    )
    conversation = Conversation(system.user, session.id)
    if text is not None:
        await conversation.send(text)
    key = system.clouds.credentials["anthropic-environment-key"]
    async with AsyncAnthropic(
        base_url=system.clouds.environment["ANTHROPIC_BASE_URL"], auth_token=key
    ) as somebody:
        work = somebody.beta.environments.work
        await work.ack(session.id, environment_id=system.clouds.environment_id)
    await system.operator.restart()
    return conversation


async def work_state(system: LocalSystem, session_id: str) -> str:
    items, _ = await system.anthropic_admin.work()
    return next((str(item["state"]) for item in items if item["data"]["id"] == session_id), "none")


async def is_stopped(system: LocalSystem, session_id: str) -> bool:
    return await work_state(system, session_id) == "stopped"


async def sent_types(system: LocalSystem, session_id: str, credential: str) -> list[str]:
    """The types of the events that somebody with such a credential sent."""
    calls = (await system.anthropic_admin.ledger()).calls
    return [
        type_
        for call in calls
        if call["operation"] == "events.send"
        and call.get("session_id") == session_id
        and call.get("credential") == credential
        for type_ in call.get("event_types", [])
    ]


async def interrupted(system: LocalSystem, session_id: str) -> bool:
    return "user.interrupt" in await sent_types(system, session_id, "api_key")


async def serves(system: LocalSystem, session_id: str) -> None:
    """The session takes a message again and answers it."""
    async with Conversation.join(system.user, session_id) as conversation:
        assert "served again" in await conversation.say("Run: echo served again")
    await eventually("the sandbox is paused", lambda: paused(system, session_id))
    await becomes(system, session_id, "Idle", status="True")


@WITH_KEY
async def test_stranded_work_is_stopped_and_its_session_interrupted_and_served(system: LocalSystem) -> None:
    stranded = await strand(system, "Run: echo never")
    await eventually("interrupted", lambda: interrupted(system, stranded.session_id))
    await becomes(system, stranded.session_id, "Idle", status="True")
    sent = await sent_types(system, stranded.session_id, "api_key")
    assert sent == ["user.message", "user.interrupt"], "the message is the user's own, and not sent again"
    await warned(system, stranded.session_id, "SessionInterrupted")
    await serves(system, stranded.session_id)


@WITH_KEY
async def test_refused_api_key_is_named_and_the_session_recovered_once_it_is_replaced(
    system: LocalSystem,
) -> None:
    system.operator.set_credential(API_KEY, "wrong-and-long-enough-to-be-seen")
    stranded = await strand(system, "Run: echo never")
    found = await becomes(system, stranded.session_id, "APIKeyRejected")
    assert "wrong-and-long-enough" not in found["message"]
    assert await is_stopped(system, stranded.session_id)
    system.operator.set_credential(API_KEY, system.api_key)
    await system.operator.restart(kill=True)
    await becomes(system, stranded.session_id, "Idle", status="True")
    await serves(system, stranded.session_id)


@WITHOUT_KEY
async def test_stranded_work_is_stopped_and_the_condition_says_what_to_do(system: LocalSystem) -> None:
    stranded = await strand(system, "Run: echo never")
    await eventually("stopped", lambda: is_stopped(system, stranded.session_id))
    found = await becomes(system, stranded.session_id, "WorkStranded")
    assert "user.interrupt" in found["message"]
    assert (await resource(system, stranded.session_id))["status"]["phase"] == "Failed"
    await resyncs(system, 2)
    assert (await condition(system, stranded.session_id))["reason"] == "WorkStranded"

    events: Any = [{"type": "user.interrupt"}]
    await system.user.beta.sessions.events.send(stranded.session_id, events=events)
    await becomes(system, stranded.session_id, "Idle", status="True")
    await serves(system, stranded.session_id)


@WITH_KEY
async def test_stranded_work_of_a_session_without_a_message_is_only_stopped(system: LocalSystem) -> None:
    stranded = await strand(system, None)
    await eventually("stopped", lambda: is_stopped(system, stranded.session_id))
    await serves(system, stranded.session_id)
    assert not await interrupted(system, stranded.session_id)


async def resyncs(system: LocalSystem, count: int) -> None:
    """Wait until so many resyncs have passed."""

    async def listed() -> int:
        operations = (await system.anthropic_admin.ledger(calls=False)).operations
        return sum(operations.get("work.list", {}).values())

    before = await listed()

    async def passed() -> bool:
        return await listed() >= before + count

    await eventually(f"{count} resyncs have passed", passed)


async def wedge(system: LocalSystem, conversation: Conversation) -> None:
    """Let a message arrive between the worker's idle decision and its stop."""
    fault = await system.anthropic_admin.add_fault(
        "work.stop", {"action": "hang", "seconds": 60}, match={"work_id": conversation.session_id}
    )
    await conversation.say("Run: echo first")

    async def stopping() -> bool:
        return any(each["id"] == fault and each["applied"] for each in await system.anthropic_admin.faults())

    await eventually("the worker is stopping its work", stopping)
    await conversation.send("Run: echo second")
    await system.anthropic_admin.clear_faults()


@WITH_KEY
async def test_message_that_came_while_the_worker_stopped_is_noticed_and_its_session_served_again(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        await wedge(system, conversation)
        await eventually("interrupted", lambda: interrupted(system, conversation.session_id))
        await serves(system, conversation.session_id)
        assert (await sent_types(system, conversation.session_id, "api_key")).count("user.interrupt") == 1
        status = (await resource(system, conversation.session_id))["status"]
        assert status["recovery"]["attempts"] == 0


@WITHOUT_KEY
async def test_message_that_came_while_the_worker_stopped_is_said_in_the_condition(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        await wedge(system, conversation)
        found = await becomes(system, conversation.session_id, "SessionStuck")
        assert "user.interrupt" in found["message"]
        await system.operator.restart(kill=True)
        await resyncs(system, 3)
        assert (await condition(system, conversation.session_id))["reason"] == "SessionStuck"

        events: Any = [{"type": "user.interrupt"}]
        await system.user.beta.sessions.events.send(conversation.session_id, events=events)
        await becomes(system, conversation.session_id, "Idle", status="True")
        await serves(system, conversation.session_id)


@WITH_KEY
async def test_interrupts_without_effect_end_after_a_bounded_number_also_over_a_restart(
    system: LocalSystem,
) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: echo first")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        system.operator.set_credential(API_KEY, None)
        await wedge(system, conversation)
        await becomes(system, conversation.session_id, "SessionStuck")
        # Taken, and nothing comes of it.
        await system.anthropic_admin.add_fault(
            "events.send",
            {"status": 200, "body": {"data": []}},
            match={"session_id": conversation.session_id, "credential": "api_key"},
            times=None,
        )
        system.operator.set_credential(API_KEY, system.api_key)
        await system.operator.restart(kill=True)

        async def given_up() -> bool:
            found = await condition(system, conversation.session_id)
            return found.get("reason") == "SessionStuck" and "3 times" in found["message"]

        await eventually("given up", given_up, seconds=60)
        await system.operator.restart(kill=True)
        await resyncs(system, 3)
        status = (await resource(system, conversation.session_id))["status"]
        assert status["recovery"]["attempts"] == 3
        assert status["phase"] == "Failed"


REFUSED = {
    "status": 413,
    "body": {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}},
}


async def refuse_results(system: LocalSystem, session_id: str) -> None:
    await system.anthropic_admin.add_fault(
        "events.send", REFUSED, match={"session_id": session_id, "credential": "sessions_token"}, times=None
    )


@WITH_KEY
async def test_session_whose_result_is_refused_is_interrupted_and_served_again(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await refuse_results(system, conversation.session_id)
        await conversation.send("Run: echo refused")
        await eventually("interrupted", lambda: interrupted(system, conversation.session_id))
        await system.anthropic_admin.clear_faults()
        await serves(system, conversation.session_id)


@WITHOUT_KEY
async def test_refused_results_are_tried_a_bounded_number_of_times_and_then_said(system: LocalSystem) -> None:
    await system.anthropic_admin.change_settings(work={"lease_ttl_seconds": 5})
    try:
        async with begin(system) as conversation:
            await refuse_results(system, conversation.session_id)
            await conversation.send("Run: echo refused")
            found = await becomes(system, conversation.session_id, "SessionStuck", seconds=60)
            assert "refused" in found["message"]
            report = await system.anthropic_admin.session(conversation.session_id)
            assert report.counts["leases"] == 3
            await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
    finally:
        await system.anthropic_admin.change_settings(work={"lease_ttl_seconds": 300})


@WITH_KEY
async def test_announced_run_without_work_is_looked_at_once_and_settles(system: LocalSystem) -> None:
    async with begin(system) as conversation:
        await conversation.say("Run: true")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        await becomes(system, conversation.session_id, "Idle", status="True")
        # It is said for all but the first two of these seconds.
        await system.kubectl(
            "patch", names.PLURAL, names.resource_name(conversation.session_id), "--type=merge",
            "--patch", json.dumps({"spec": {"worker": {"attachTimeoutSeconds": 10}}}),
        )  # fmt: skip
        await system.anthropic_admin.deliver(
            type="session.status_run_started", object_id=conversation.session_id
        )
        await becomes(system, conversation.session_id, "AwaitingClaim")

        async def settled() -> bool:
            status = (await resource(system, conversation.session_id))["status"]
            return "checkedAt" in status.get("recovery", {})

        await eventually("the session was looked at", settled)
        await becomes(system, conversation.session_id, "Idle", status="True")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        await system.anthropic_admin.clear_ledger()
        await system.operator.restart(kill=True)
        await resyncs(system, 3)
        # Sessions of other tests may be stuck still, and are looked at.
        calls = (await system.anthropic_admin.ledger()).calls
        assert [call for call in calls if call.get("session_id") == conversation.session_id] == []
        assert not await interrupted(system, conversation.session_id)


@WITH_KEY
async def test_session_that_waits_for_its_user_is_left_alone(system: LocalSystem) -> None:
    call = {"tool": "ask_person", "input": {}, "custom": True}
    async with begin(system) as conversation:
        await conversation.send(json.dumps({"script": [{"tools": [call]}, {"say": "thanks"}]}))

        async def waits() -> bool:
            return bool((await system.anthropic_admin.session(conversation.session_id)).waiting_for)

        await eventually("the agent waits for its user", waits)
        await becomes(system, conversation.session_id, "AwaitingUser", status="True")
        await resyncs(system, 4)
        assert not await interrupted(system, conversation.session_id)
        assert (await condition(system, conversation.session_id))["status"] == "True"
        await system.user.beta.sessions.events.send(
            conversation.session_id, events=[{"type": "user.interrupt"}]
        )
        await becomes(system, conversation.session_id, "Idle", status="True")
