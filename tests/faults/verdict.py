"""Whether the promises held, by the simulators' ledgers and the API server alone."""

from __future__ import annotations

import json
from functools import partial

from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.anthropic.client import SessionReport
from managed_session_devkit.system.local_system import LocalSystem

from ..support.shared_sandboxes import owners
from ..support.waiting import eventually
from .row import Outcome
from .scenario import Scenario

SETTLE_SECONDS = 30
COUNTING_SLACK = 2.0
"""Seconds by which rounded periods may exceed what E2B has billed."""


async def check(scenario: Scenario, outcome: Outcome, *, exact_seconds: bool = False) -> None:
    """Assert the promises for all sessions, then remove the sessions and assert that nothing is left.

    `exact_seconds` says that no running period ends unseen: such a period counts until it is noticed.
    """
    unanswered = 0
    for conversation in scenario.sessions.values():
        report = await _calm_session(scenario, conversation)
        unanswered += _unanswered(report)
        _assert_nothing_doubled(report, outcome, sent=scenario.sent[conversation.session_id])
        await _assert_one_sandbox_worked(scenario, conversation.session_id, outcome.sandboxes)
        if exact_seconds:
            await _assert_no_second_counted_twice(scenario, conversation.session_id)
    assert unanswered == outcome.unanswered, f"{unanswered} messages are not answered"
    await _assert_nothing_stranded(scenario)
    if outcome.gone:
        for session_id in scenario.sessions:
            await eventually("the resource is gone", partial(_absent, scenario.system, session_id))
    await remove(scenario)


async def remove(scenario: Scenario) -> None:
    """Delete the sessions' resources; no sandbox, Secret or object stays."""
    system = scenario.system
    resources = [f"{names.PLURAL}/{names.resource_name(session_id)}" for session_id in scenario.sessions]
    if resources:
        await system.kubectl("delete", *resources, "--ignore-not-found", "--timeout=60s")
    for session_id in scenario.sessions:
        await eventually("no sandbox is left", partial(_no_sandbox, scenario, session_id))
        await eventually("no token is left", partial(_no_token, system, session_id))
    if await scenario.shared():
        await eventually("no ManagedSandbox is left", partial(_no_owner, system))


async def _calm_session(scenario: Scenario, conversation: Conversation) -> SessionReport:
    """Wait until nothing runs for the session any more, and return what Anthropic knows of it."""
    session_id = conversation.session_id

    async def at_rest() -> bool:
        alive = [each for each in await scenario.sandboxes_for(session_id) if each.state != "killed"]
        return len(alive) <= 1 and all(each.state == "paused" for each in alive)

    await eventually("nothing runs and at most one sandbox is left", at_rest, seconds=SETTLE_SECONDS)
    return await scenario.system.anthropic_admin.session(session_id)


def _unanswered(report: SessionReport) -> int:
    return sum(turn.answered_at is None and turn.interrupted_at is None for turn in report.turns)


def _assert_nothing_doubled(report: SessionReport, outcome: Outcome, *, sent: int) -> None:
    counts = report.counts
    assert counts["messages"] == sent, "no message is sent but by the user"
    assert counts["worker_streams_overlapping"] == 0, "one worker at a time"
    assert counts["results_repeated"] <= outcome.results_posted_again, "no result is given twice"


async def _assert_one_sandbox_worked(scenario: Scenario, session_id: str, most: int) -> None:
    ever = {each.id for each in await scenario.sandboxes_for(session_id)}
    starts = (await scenario.system.e2b_admin.ledger(operation="process_start")).calls
    worked = {call["sandboxID"] for call in starts if call.get("sandboxID") in ever}
    assert len(worked) <= most, f"{len(worked)} sandboxes got a worker"


async def _assert_no_second_counted_twice(scenario: Scenario, session_id: str) -> None:
    """The resource has no more running time than E2B has billed, unless a sandbox went at an unknown time."""
    sandboxes = await scenario.sandboxes_for(session_id)
    if any(each.state == "killed" for each in sandboxes):
        return
    path = "{.status.cost.sandboxSeconds}"
    name = names.resource_name(session_id)
    counted = await scenario.system.kubectl(
        "get", names.PLURAL, name, "--ignore-not-found", f"--output=jsonpath={path}"
    )
    billed = sum(each.billed_seconds for each in sandboxes)
    assert float(counted or 0) <= billed + COUNTING_SLACK, "no second of a sandbox is counted twice"


async def _assert_nothing_stranded(scenario: Scenario) -> None:
    async def started_or_stopped() -> bool:
        items, _ = await scenario.system.anthropic_admin.work()
        mine = [item for item in items if item["data"]["id"] in scenario.sessions]
        return all(item["state"] != "starting" for item in mine)

    await eventually("no acknowledged work waits for a worker", started_or_stopped)


async def _absent(system: LocalSystem, session_id: str) -> bool:
    found = await system.kubectl(
        "get", names.PLURAL, names.resource_name(session_id), "--ignore-not-found", "--output=name"
    )
    return not found.strip()


async def _no_sandbox(scenario: Scenario, session_id: str) -> bool:
    return all(each.state == "killed" for each in await scenario.sandboxes_for(session_id))


async def _no_owner(system: LocalSystem) -> bool:
    return not await owners(system)


async def _no_token(system: LocalSystem, session_id: str) -> bool:
    secret = names.token_secret_name(names.resource_name(session_id))
    found = await system.kubectl("get", "secret", secret, "--ignore-not-found", "--output=json")
    return not found.strip() or not json.loads(found)
