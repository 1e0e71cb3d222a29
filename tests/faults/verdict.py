"""Whether the promises held, by the simulators' ledgers and the API server alone."""

from __future__ import annotations

import json
from functools import partial

from managed_session_api import names
from managed_session_local.conversation import Conversation
from managed_session_local.simulators.anthropic.client import SessionReport
from managed_session_local.simulators.e2b.client import SimulatedSandbox
from managed_session_local.system import LocalSystem

from ..cluster.sessions import sandboxes_of
from ..cluster.waiting import eventually
from .row import Outcome
from .scene import Scene

SETTLE_SECONDS = 30


async def check(scene: Scene, outcome: Outcome) -> None:
    """Assert the promises for all sessions of a scene, then remove them and assert that nothing is left."""
    unanswered = 0
    for conversation in scene.sessions.values():
        report = await _calm_session(scene, conversation)
        unanswered += _unanswered(report)
        _assert_nothing_doubled(report, outcome, sent=scene.sent[conversation.session_id])
        await _assert_one_sandbox_worked(scene.system, conversation.session_id, outcome.sandboxes)
    assert unanswered == outcome.unanswered, f"{unanswered} messages are not answered"
    await _assert_nothing_stranded(scene)
    if outcome.gone:
        for session_id in scene.sessions:
            await eventually("the resource is gone", partial(_absent, scene.system, session_id))
    await remove(scene)


async def remove(scene: Scene) -> None:
    """Delete the sessions' resources; no sandbox, Secret or object stays."""
    system = scene.system
    resources = [f"{names.PLURAL}/{names.resource_name(session_id)}" for session_id in scene.sessions]
    if resources:
        await system.kubectl("delete", *resources, "--ignore-not-found", "--timeout=60s")
    for session_id in scene.sessions:
        await eventually("no sandbox is left", partial(_no_sandbox, system, session_id))
        await eventually("no token is left", partial(_no_token, system, session_id))


async def _calm_session(scene: Scene, conversation: Conversation) -> SessionReport:
    """Wait until nothing runs for the session any more, and return what Anthropic knows of it."""
    session_id = conversation.session_id

    async def at_rest() -> bool:
        alive = [each for each in await sandboxes_of(scene.system, session_id) if each.state != "killed"]
        return len(alive) <= 1 and all(each.state == "paused" for each in alive)

    await eventually("nothing runs and at most one sandbox is left", at_rest, seconds=SETTLE_SECONDS)
    return await scene.system.anthropic_admin.session(session_id)


def _unanswered(report: SessionReport) -> int:
    return sum(turn.answered_at is None and turn.interrupted_at is None for turn in report.turns)


def _assert_nothing_doubled(report: SessionReport, outcome: Outcome, *, sent: int) -> None:
    counts = report.counts
    assert counts["messages"] == sent, "no message is sent but by the user"
    assert counts["worker_streams_overlapping"] == 0, "one worker at a time"
    assert counts["results_repeated"] <= outcome.results_posted_again, "no result is given twice"


async def _assert_one_sandbox_worked(system: LocalSystem, session_id: str, most: int) -> None:
    ever = {each.id for each in await sandboxes_of(system, session_id)}
    starts = (await system.e2b_admin.ledger(operation="process_start")).calls
    worked = {call["sandboxID"] for call in starts if call.get("sandboxID") in ever}
    assert len(worked) <= most, f"{len(worked)} sandboxes got a worker"


async def _assert_nothing_stranded(scene: Scene) -> None:
    async def started_or_stopped() -> bool:
        items, _ = await scene.system.anthropic_admin.work()
        mine = [item for item in items if item["data"]["id"] in scene.sessions]
        return all(item["state"] != "starting" for item in mine)

    await eventually("no acknowledged work waits for a worker", started_or_stopped)


async def _absent(system: LocalSystem, session_id: str) -> bool:
    found = await system.kubectl(
        "get", names.PLURAL, names.resource_name(session_id), "--ignore-not-found", "--output=name"
    )
    return not found.strip()


async def _no_sandbox(system: LocalSystem, session_id: str) -> bool:
    left: list[SimulatedSandbox] = await sandboxes_of(system, session_id)
    return all(each.state == "killed" for each in left)


async def _no_token(system: LocalSystem, session_id: str) -> bool:
    secret = names.token_secret_name(names.resource_name(session_id))
    found = await system.kubectl("get", "secret", secret, "--ignore-not-found", "--output=json")
    return not found.strip() or not json.loads(found)
