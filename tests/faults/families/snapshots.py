"""Snapshots: refused, lost, cut off by the operator's death; restores, forks and retained files likewise."""

from __future__ import annotations

import json
from typing import Any

from managed_session_api import names
from managed_session_cli.conversation import Conversation

from ...support.arrangements import QUEUE_ONLY
from ...support.sessions import condition, sandboxes_of
from ...support.snapshots import kept_in_e2b, snapshots_of
from ...support.waiting import eventually
from ..anthropic_side import is_gone
from ..effects import Effect
from ..kubectl_actions import delete, patch, status
from ..own_class import own_class
from ..row import Outcome, Play, Row
from ..scenario import Held, Scenario

FAMILY = "snapshots"
NEWEST_ONLY: dict[str, Any] = {"snapshots": {"afterEachTurn": True, "keepLast": 1}}
TAKE, KILL = Effect("e2b", "snapshot"), Effect("e2b", "kill")
LONG = "sleep 4"
"""Takes longer than the operator waits after a snapshot that failed."""


async def _turn(scenario: Scenario, conversation: Conversation, command: str) -> str:
    answer = await scenario.say(conversation, f"Run: {command}")
    await scenario.settled(conversation)
    return answer


async def _only_the_newest_is_kept(scenario: Scenario, conversation: Conversation, turn: int) -> None:
    async def look() -> bool:
        recorded = await snapshots_of(scenario.system, conversation.session_id)
        kept = await kept_in_e2b(scenario.system, conversation.session_id)
        return [each["turn"] for each in recorded] == [turn] and kept == {each["id"] for each in recorded}

    await eventually(f"the snapshot of turn {turn} is the only one", look)


async def _killed_once(scenario: Scenario, conversation: Conversation, held: Held, snapshots: int) -> None:
    """The operator dies at the held call, once E2B has so many of the session's snapshots."""

    async def made() -> bool:
        return len(await kept_in_e2b(scenario.system, conversation.session_id)) == snapshots

    await held.reached()
    await eventually("E2B has the snapshot", made)
    await scenario.system.operator.kill()
    held.lose()
    await scenario.calm()


async def _killed_before_it_is_written_down(scenario: Scenario) -> None:
    """No snapshot is forgotten: each but the newest is deleted."""
    async with own_class(scenario, lifecycle=NEWEST_ONLY) as agent:
        conversation = await scenario.begin(agent)
        await _turn(scenario, conversation, "echo one")
        held = await scenario.hold(TAKE, after_commit=True)
        await scenario.send(conversation, "Run: echo two")
        await _killed_once(scenario, conversation, held, 2)
        await scenario.system.operator.restart()
        assert await conversation.answer() == "two"
        await scenario.settled(conversation)
        await _turn(scenario, conversation, "echo three")
        await _only_the_newest_is_kept(scenario, conversation, 3)


def _not_answered_well(action: dict[str, Any] | str) -> Play:
    """The turn ends as ever, the resource says so, and the next turn's snapshot replaces what was made."""

    async def play(scenario: Scenario) -> None:
        async with own_class(scenario, lifecycle=NEWEST_ONLY) as agent:
            conversation = await scenario.begin(agent)
            session_id = conversation.session_id
            await scenario.system.e2b_admin.add_fault("snapshot", action)
            assert await _turn(scenario, conversation, "echo one") == "one"
            assert await condition(scenario.system, session_id, "SnapshotFailed")
            assert await snapshots_of(scenario.system, session_id) == []
            assert await _turn(scenario, conversation, f"{LONG}; echo two") == "two"
            await _only_the_newest_is_kept(scenario, conversation, 2)
            assert await condition(scenario.system, session_id, "SnapshotFailed") == {}

    return play


async def _requested(scenario: Scenario, conversation: Conversation) -> str:
    """Ask for a snapshot, and return its ID when the sandbox is paused again."""
    await patch(scenario, conversation, {"spec": {"requests": {"snapshot": "asked"}}})
    [taken] = await eventually(
        "the snapshot is taken", lambda: snapshots_of(scenario.system, conversation.session_id)
    )
    await scenario.settled(conversation)
    return str(taken["id"])


def _restored_and_forked(action: dict[str, Any] | str) -> Play:
    """The new sandbox is there once, has the files, and the former one is gone."""

    async def create_meets_it(scenario: Scenario, conversation: Conversation) -> int:
        match = {"metadata": {names.METADATA_SESSION: conversation.session_id}}
        return int((await scenario.system.e2b_admin.add_fault("create", action, match=match))["id"])

    async def play(scenario: Scenario) -> None:
        system, faults = scenario.system, set[int]()
        first, fork = await scenario.begin(), await scenario.begin()
        await _turn(scenario, first, "echo before > file")
        snapshot = await _requested(scenario, first)
        [former] = await sandboxes_of(system, first.session_id)
        former.path("/mnt/session/file").write_text("after")
        faults.add(await create_meets_it(scenario, first))
        wanted = {"id": "1", "snapshotID": snapshot}
        await patch(scenario, first, {"spec": {"requests": {"restore": wanted}}})

        async def restored() -> bool:
            now = await status(scenario, first)
            killed = {each.id for each in await sandboxes_of(system, first.session_id, "killed")}
            done = now.get("requests", {}).get("restore") == "1" and "replaces" not in now["sandbox"]
            return done and former.id in killed

        await eventually("the session is restored", restored)
        await scenario.settled(first)
        # The first lines say that the shell is a new one.
        assert (await _turn(scenario, first, "cat file")).splitlines()[-1] == "before"

        faults.add(await create_meets_it(scenario, fork))
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": names.resource_name(fork.session_id)},
            "spec": {"sessionID": fork.session_id, "sandbox": {"fromSnapshot": snapshot}},
        }
        await system.kubectl("create", "--filename=-", input=json.dumps(body))
        assert await _turn(scenario, fork, "cat file") == "before"
        met = {each["id"] for each in await system.e2b_admin.faults() if each["hits"]}
        assert faults <= met, "both creates met the fault"
        assert await kept_in_e2b(system, first.session_id, fork.session_id) == {snapshot}

    return play


async def _killed_twice_while_it_retains(scenario: Scenario) -> None:
    """After the snapshot was made, and after the sandbox was killed: its files are kept exactly once."""
    system = scenario.system
    async with own_class(scenario, lifecycle={"deletionPolicy": "Retain"}) as agent:
        conversation = await scenario.begin(agent)
        await _turn(scenario, conversation, "echo kept > file")
        held = await scenario.hold(TAKE, after_commit=True)
        await delete(scenario, conversation)
        await _killed_once(scenario, conversation, held, 1)
        held = await scenario.hold(KILL, after_commit=True)
        await system.operator.restart()
        await _killed_once(scenario, conversation, held, 1)
        await system.operator.restart()
        await is_gone(scenario, conversation)
    assert len(await kept_in_e2b(system, conversation.session_id)) == 1
    assert {each.state for each in await sandboxes_of(system, conversation.session_id)} == {"killed"}


ROWS = [
    Row(FAMILY, name, play, arrangement=QUEUE_ONLY, outcome=outcome)
    for name, play, outcome in (
        (
            "the operator is killed after E2B has taken a snapshot and before it is written down",
            _killed_before_it_is_written_down,
            Outcome(),
        ),
        (
            "a snapshot is answered 500 and taken",
            _not_answered_well({"status": 500, "after_commit": True}),
            Outcome(),
        ),
        ("the answer to a snapshot is lost", _not_answered_well("drop_after_commit"), Outcome()),
        (
            "the creates of a restore and of a fork are answered 503",
            _restored_and_forked({"status": 503}),
            Outcome(sandboxes=2),
        ),
        (
            "the answers to the creates of a restore and of a fork are lost",
            _restored_and_forked("drop_after_commit"),
            Outcome(sandboxes=2),
        ),
        (
            "the operator is killed twice while it retains a deleted session's files",
            _killed_twice_while_it_retains,
            Outcome(gone=True),
        ),
    )
]
