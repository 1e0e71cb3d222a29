"""Rights that are taken away and given back, clocks that disagree, a Lease that people touch."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from managed_session_api.times import to_wire

from ...rights import expect_refusals
from ...support.api_server_proxy import ApiCall
from ...support.arrangements import QUEUE_ONLY
from ...support.leaders import change_lease, delete_lease, leader, lease
from ...support.waiting import eventually
from ..kubectl_actions import becomes_phase, patch
from ..row import Row
from ..scenario import Scenario

FAMILY = "kubernetes"

Play = Callable[[Scenario], Awaitable[None]]

OPERATOR = "managed-session-operator"
DAY = timedelta(days=1)


@asynccontextmanager
async def _without_right(scenario: Scenario, namespace: str, resource: str) -> AsyncIterator[None]:
    """The operator's Role lacks the rules for this resource while the block lasts."""
    kubectl = scenario.system.control_plane.kubectl
    role: dict[str, Any] = json.loads(
        await kubectl(f"--namespace={namespace}", "get", "role", OPERATOR, "--output=json")
    )

    async def set_rules(rules: list[dict[str, Any]]) -> None:
        operation = json.dumps([{"op": "replace", "path": "/rules", "value": rules}])
        await kubectl(
            f"--namespace={namespace}", "patch", "role", OPERATOR, "--type=json", f"--patch={operation}"
        )

    with expect_refusals(namespace, OPERATOR, resource):
        await set_rules([rule for rule in role["rules"] if resource not in rule["resources"]])
        try:
            yield
        finally:
            await set_rules(role["rules"])


async def _refused(scenario: Scenario, attempt: Callable[[ApiCall], bool]) -> None:
    """Wait until the operator has tried this in vain, more than once."""
    before = sum(map(attempt, scenario.proxy.calls))

    async def tried() -> bool:
        return sum(map(attempt, scenario.proxy.calls)) >= before + 2

    await eventually("it is tried in vain", tried)


def _right_removed(resource: str, attempt: str) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scenario.settled(conversation)
        async with _without_right(scenario, scenario.system.namespace, resource):
            await scenario.send(conversation, "Run: cat /mnt/session/file")
            await _refused(scenario, lambda call: call.operation == attempt)
        assert "kept" in await conversation.answer()

    return play


async def _all_rights_removed(scenario: Scenario) -> None:
    """The watch, too, is opened again in vain, and works when the rights are back."""
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    kubectl, space = scenario.system.control_plane.kubectl, f"--namespace={scenario.system.namespace}"
    binding = json.loads(await kubectl(space, "get", "rolebinding", OPERATOR, "--output=json"))
    for field in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        binding["metadata"].pop(field, None)
    with expect_refusals(scenario.system.namespace, OPERATOR):
        await kubectl(space, "delete", "rolebinding", OPERATOR)
        try:
            await scenario.proxy.expire_watches()
            await scenario.send(conversation, "Run: cat /mnt/session/file")
            await _refused(scenario, lambda call: call.operation == "list managedsessions")
        finally:
            given_back = len(scenario.proxy.calls)
            await kubectl(space, "create", "--filename=-", input=json.dumps(binding))
    assert "kept" in await conversation.answer()
    await scenario.settled(conversation)

    async def watches() -> bool:
        return any(call.operation == "watch managedsessions" for call in scenario.proxy.calls[given_back:])

    await eventually("it watches again", watches, seconds=60)


async def _lease_right_removed(scenario: Scenario) -> None:
    """It ends leading, and takes the lead up again."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo kept > /mnt/session/file; sleep 6; echo answered")
    await becomes_phase(scenario, conversation, "Running")
    log = scenario.system.operator.log
    lost = log.read_text().count('"lease lost"')
    async with _without_right(scenario, scenario.system.system_namespace, "leases"):

        async def ended() -> bool:
            return log.read_text().count('"lease lost"') > lost

        await eventually("it has noticed", ended)
        assert "answered" in await conversation.answer()
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


async def _lease_deleted(scenario: Scenario) -> None:
    """The epoch never falls, or sandboxes would refuse the next leader's starts."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo kept > /mnt/session/file; sleep 6; echo answered")
    await becomes_phase(scenario, conversation, "Running")
    epoch = (await lease(scenario.system))["leaseTransitions"]
    await delete_lease(scenario.system)
    assert "answered" in await conversation.answer()
    await leader(scenario.system)
    assert (await lease(scenario.system))["leaseTransitions"] >= epoch
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


def _lease_of_another_clock(ahead: timedelta) -> Play:
    """A holder whose clock is off takes the Lease and dies: how long it lasted is measured, not read."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scenario.settled(conversation)
        await leader(scenario.system)
        now = await lease(scenario.system)
        skewed = to_wire(datetime.now(UTC) + ahead)
        await change_lease(
            scenario.system,
            holderIdentity="elsewhere",
            renewTime=skewed,
            acquireTime=skewed,
            leaseDurationSeconds=2,
            leaseTransitions=now["leaseTransitions"] + 1,
        )
        await scenario.send(conversation, "Run: cat /mnt/session/file")
        assert "kept" in await conversation.answer()

        async def taken_back() -> bool:
            return bool((await lease(scenario.system))["leaseTransitions"] > now["leaseTransitions"] + 1)

        # The answer may be the earlier term's, which lasts until its next renewal.
        await eventually("the Lease is taken anew", taken_back)

    return play


def _written_by_another_clock(ahead: timedelta) -> Play:
    """The last turn was written down by an operator whose clock was off."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scenario.settled(conversation)
        await becomes_phase(scenario, conversation, "Idle")
        at = to_wire(datetime.now(UTC) + ahead)
        times = ("offeredAt", "acknowledgedAt", "firstHeartbeatAt", "finishedAt")
        event = {"id": "whe_of_another_clock", "type": "session.status_run_started", "createdAt": at}
        await patch(
            scenario,
            conversation,
            {
                "status": {
                    "work": dict.fromkeys(times, at),
                    "lastActiveTime": at,
                    "lastEvent": event,
                    "sandbox": {"startedAt": at},
                }
            },
            status=True,
        )
        assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")

    return play


async def _acknowledged_in_the_future(scenario: Scenario) -> None:
    """The operator's clock is set back a day in the middle of a turn, and the next one dies with it."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo kept > /mnt/session/file; sleep 6; echo answered")
    await becomes_phase(scenario, conversation, "Running")
    at = to_wire(datetime.now(UTC) + DAY)
    await patch(
        scenario,
        conversation,
        {"status": {"work": {"offeredAt": at, "acknowledgedAt": at, "firstHeartbeatAt": at}}},
        status=True,
    )
    assert "answered" in await conversation.answer()
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


def _row(name: str, play: Play) -> Row:
    return Row(FAMILY, name, play, arrangement=QUEUE_ONLY)


ROWS = [
    _row(
        "the right to write the status is removed and given back",
        _right_removed("managedsessions/status", "patch managedsessions/status"),
    ),
    _row(
        "the right to keep tokens is removed and given back",
        _right_removed("secrets", "create secrets"),
    ),
    _row(
        "the right to list and change resources is removed and given back",
        _right_removed("managedsessions", "list managedsessions"),
    ),
    _row("all rights to the resources are removed, the watch's too, and given back", _all_rights_removed),
    _row("the right to the Lease is removed and given back", _lease_right_removed),
    _row("the Lease is deleted in the middle of a turn", _lease_deleted),
    _row("a holder whose clock is a day ahead takes the Lease", _lease_of_another_clock(DAY)),
    _row("a holder whose clock is a day behind takes the Lease", _lease_of_another_clock(-DAY)),
    _row("a clock that was a day ahead wrote the last turn", _written_by_another_clock(DAY)),
    _row("a clock that was a day behind wrote the last turn", _written_by_another_clock(-DAY)),
    _row("the clock is set back a day in the middle of a turn", _acknowledged_in_the_future),
]
