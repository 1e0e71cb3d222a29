"""What Anthropic's side does wrong in a row: faults on its calls, and what a row sees of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from anthropic import AsyncAnthropic
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import resource, sandboxes_of
from ..support.waiting import eventually
from .scenario import Scenario

Play = Callable[[Scenario], Awaitable[None]]
Action = dict[str, Any]

OPERATOR = {"credential": "environment_key"}
WORKER = {"credential": "sessions_token"}
"""Who makes the call that a fault is for."""

LOST: Action = {"action": "drop_before"}
ANSWER_LOST: Action = {"action": "drop_after_commit"}
"""The connection ends before or after the call took effect."""

PROXY_PAGE: Action = {"status": 404, "body": "<html>no such page</html>"}
"""Not Anthropic's own answer."""


def answered(status: int, *, after_commit: bool = False, **fields: Any) -> Action:
    """The call is answered so, before or after it took effect."""
    return {"status": status, "after_commit": after_commit, **fields}


def hanging(seconds: float, *, after_commit: bool = False) -> Action:
    """The call takes so long, and is answered as usual then."""
    return {"action": "hang", "seconds": seconds, "after_commit": after_commit}


@dataclass(frozen=True)
class Fault:
    """A fault on an operation of Anthropic's API (the fields are `AnthropicSimulator.add_fault`'s)."""

    operation: str
    action: Action
    times: int | None = 1
    skip: int = 0
    match: dict[str, str] = field(default_factory=dict)

    async def inject(self, scenario: Scenario) -> Struck:
        """Put it in force."""
        identity = await scenario.system.anthropic_admin.add_fault(
            self.operation, self.action, match=self.match, times=self.times, skip=self.skip
        )
        return Struck(scenario, self, identity)


@dataclass(frozen=True)
class Struck:
    """A fault in force."""

    scenario: Scenario
    fault: Fault
    identity: str

    async def count(self) -> int:
        """How many calls it has hit."""
        faults = await self.scenario.system.anthropic_admin.faults()
        return sum(each["applied"] for each in faults if each["id"] == self.identity)

    async def wait(self, times: int = 1) -> None:
        """Wait until it has hit so many calls."""

        async def enough() -> bool:
            return await self.count() >= times

        await eventually(f"{self.fault.operation} meets its fault", enough)


def slow_at_first(command: str) -> str:
    """A message whose tool call takes long by this command, and none the second time it is made."""
    return f"Run: test -e begun || {{ touch begun; {command}; }}; echo served"


def in_first_turn(*faults: Fault) -> Play:
    """The faults are in force when a session gets its first message, which is answered all the same."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        struck = [await fault.inject(scenario) for fault in faults]
        assert "served" in await scenario.say(conversation, "Run: echo served")
        for each in struck:
            await each.wait(each.fault.times or 1)

    return play


def in_second_turn(*faults: Fault, command: str = "cat file") -> Play:
    """The faults are in force when a session with a paused sandbox gets a message; its files are there."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee file")
        await scenario.settled(conversation)
        struck = [await fault.inject(scenario) for fault in faults]
        assert "kept" in await scenario.say(conversation, f"Run: {command}")
        for each in struck:
            await each.wait(each.fault.times or 1)

    return play


def environment_client(system: LocalSystem) -> AsyncAnthropic:
    """A client with the environment key: somebody else who polls the same queue."""
    environment = system.clouds.environment
    key = (system.operator.credentials / "anthropic-environment-key").read_text().strip()
    return AsyncAnthropic(base_url=environment["ANTHROPIC_BASE_URL"], auth_token=key, max_retries=0)


async def _offer(scenario: Scenario, conversation: Conversation) -> dict[str, Any]:
    """Take the session's offer off the queue as another poller would, and leave it un-acknowledged."""
    async with environment_client(scenario.system) as other:

        async def look() -> dict[str, Any] | None:
            # An item that waits for its acknowledgement comes before all that are queued, whosever it is.
            for window in (60_000, 0):
                item: Any = await other.beta.environments.work.poll(
                    scenario.system.clouds.environment_id, block_ms=500, reclaim_older_than_ms=window
                )
                if item and item.data.id == conversation.session_id:
                    return dict(json.loads(item.to_json()))
            return None

        return await eventually("another poller gets the work", look)


async def stale_offers(scenario: Scenario, item: dict[str, Any], times: int) -> None:
    """The operator's next polls are all answered with this item."""
    await (await Fault("work.poll", answered(200, body=item), times=times).inject(scenario)).wait(times)


async def two_offers_without_operator(
    scenario: Scenario, conversation: Conversation, text: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same with two offers of the one item, each with a token of its own."""
    offers = []

    async def again(first: dict[str, Any]) -> None:
        offers.extend([first, await _offer(scenario, conversation)])

    await offer_without_operator(scenario, conversation, text, meanwhile=again)
    return offers[0], offers[1]


async def _nothing(_: dict[str, Any]) -> None:
    pass


async def offer_without_operator(
    scenario: Scenario,
    conversation: Conversation,
    text: str,
    *,
    acknowledge: bool = False,
    meanwhile: Callable[[dict[str, Any]], Awaitable[None]] = _nothing,
) -> dict[str, Any]:
    """Send a message while the operator's polls fail, and return the offer that somebody else got of it.

    With `acknowledge` they take the work off the queue, and do nothing for it. The work must not have been
    queued before (`enqueue_at_creation` false): the operator would have it already.
    """
    match = {"worker_id": await eventually("the operator polls", lambda: _worker_id(scenario))}
    struck = await Fault("work.poll", LOST, times=None, match=match).inject(scenario)
    # Then the one that was on its way is answered.
    await struck.wait()
    await scenario.send(conversation, text)
    item = await _offer(scenario, conversation)
    await meanwhile(item)
    if acknowledge:
        async with environment_client(scenario.system) as other:
            await other.beta.environments.work.ack(item["id"], environment_id=item["environment_id"])
    await scenario.system.anthropic_admin.clear_faults()
    return item


async def _worker_id(scenario: Scenario) -> str | None:
    calls = (await scenario.system.anthropic_admin.ledger()).calls
    return next((str(call["worker_id"]) for call in reversed(calls) if call.get("worker_id")), None)


async def work_of(scenario: Scenario, conversation: Conversation) -> dict[str, Any]:
    """The session's work item as Anthropic has it; empty where there is none."""
    return (await scenario.system.anthropic_admin.session(conversation.session_id)).work or {}


async def work_is(scenario: Scenario, conversation: Conversation, *states: str) -> dict[str, Any]:
    """Wait until the session's work item is in one of these states."""

    async def look() -> dict[str, Any] | None:
        item = await work_of(scenario, conversation)
        return item if item.get("state") in states else None

    return await eventually(f"the work is {' or '.join(states)}", look)


async def count_is(scenario: Scenario, conversation: Conversation, counter: str, at_least: int) -> None:
    """Wait until a counter of the session's ledger is high enough."""

    async def look() -> bool:
        report = await scenario.system.anthropic_admin.session(conversation.session_id)
        return report.counts[counter] >= at_least

    await eventually(f"{counter} is {at_least}", look)


async def waits_for_tool(scenario: Scenario, conversation: Conversation) -> None:
    """Wait until the session waits for the result of a tool call."""

    async def look() -> bool:
        return bool((await scenario.system.anthropic_admin.session(conversation.session_id)).waiting_for)

    await eventually("the session waits for a tool's result", look)


async def tool_runs(scenario: Scenario, conversation: Conversation, command: str) -> None:
    """Wait until a tool call's command runs in the session's sandbox."""

    async def look() -> bool:
        running = await sandboxes_of(scenario.system, conversation.session_id, "running")
        return any(command in process.command for each in running for process in each.processes)

    await eventually(f"{command} runs", look)


async def polls_fail(scenario: Scenario) -> None:
    """From now on no poll brings work, until the faults are cleared."""
    # The first to fail was sent when the one before it, which may have brought some, was answered.
    await (await Fault("work.poll", LOST, times=None).inject(scenario)).wait()


async def somebody_stops(scenario: Scenario, work_id: str, *, force: bool) -> None:
    """Stop a work item with the environment key."""
    async with environment_client(scenario.system) as other:
        environment_id = scenario.system.clouds.environment_id
        await other.beta.environments.work.stop(work_id, environment_id=environment_id, force=force)


async def worker_dies(scenario: Scenario, conversation: Conversation) -> None:
    """Kill all processes of the session's sandbox that are the worker's or its supervisor's."""
    for sandbox in await sandboxes_of(scenario.system, conversation.session_id, "running"):
        await scenario.system.e2b_admin.kill_processes(sandbox.id, contains="managed_session_worker")


async def is_gone(scenario: Scenario, conversation: Conversation) -> None:
    """Wait until the resource is gone."""

    async def look() -> bool:
        return not await resource(scenario.system, conversation.session_id)

    await eventually("the resource is gone", look)


async def user_sends(scenario: Scenario, conversation: Conversation, **event: Any) -> None:
    """Send an event that is no message as the session's user."""
    await scenario.system.user.beta.sessions.events.send(conversation.session_id, events=[event])  # type: ignore[list-item]


async def set_work(scenario: Scenario, **settings: Any) -> None:
    """Change settings of the work queue."""
    await scenario.system.anthropic_admin.change_settings(work=settings)


def with_work_settings(play: Play, **settings: Any) -> Play:
    """Play with changed settings of the work queue, which are restored."""

    async def changed(scenario: Scenario) -> None:
        before = (await scenario.system.anthropic_admin.settings())["work"]
        await set_work(scenario, **settings)
        try:
            await play(scenario)
        finally:
            await set_work(scenario, **{name: before[name] for name in settings})

    return changed
