"""The API server, its etcd or its watch away: for all, or for the operator alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from managed_session_devkit.control_plane import ControlPlane

from ...support.arrangements import OWN_CONTROL_PLANE, QUEUE_ONLY
from ...support.sessions import resource, sandboxes_of
from ...support.waiting import eventually
from ..effects import Effect
from ..kubectl_actions import becomes_phase, delete, delete_by_force, patch, sandbox_killed, status
from ..row import Outcome, Row
from ..scenario import Scenario

FAMILY = "kubernetes"

Play = Callable[[Scenario], Awaitable[None]]
Outage = Callable[..., AbstractAsyncContextManager[None]]

FOUR_RESYNCS = 4
"""As many as there are, with the usual settings, in two minutes."""


@asynccontextmanager
async def _stopped(plane: ControlPlane, *, kill: bool) -> AsyncIterator[None]:
    await plane.stop_api_server(kill=kill)
    try:
        yield
    finally:
        await plane.start_api_server()


@asynccontextmanager
async def _etcd_stopped(plane: ControlPlane, *, kill: bool) -> AsyncIterator[None]:
    await plane.stop_etcd(kill=kill)
    try:
        yield
    finally:
        await plane.start_etcd()


def _while_a_worker_runs(outage: Outage, *, kill: bool) -> Play:
    """The turn's end falls into the outage; the next turn finds the same sandbox."""

    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        await scenario.send(conversation, "Run: echo kept > /mnt/session/file; sleep 6; echo answered")
        await becomes_phase(scenario, conversation, "Running")
        async with outage(scenario.system.control_plane, kill=kill):
            assert "answered" in await conversation.answer()
        await scenario.settled(conversation)
        assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")

    return play


def _while_a_message_comes(outage: Outage) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scenario.settled(conversation)
        admin = scenario.system.anthropic_admin
        before = (await admin.session(conversation.session_id)).counts["work_enqueued"]
        async with outage(scenario.system.control_plane, kill=True):
            await scenario.send(conversation, "Run: cat /mnt/session/file")

            async def queued() -> bool:
                return (await admin.session(conversation.session_id)).counts["work_enqueued"] > before

            await eventually("the work is queued", queued)
        assert "kept" in await conversation.answer()

    return play


def _while_a_create_is_on_its_way(outage: Outage) -> Play:
    async def play(scenario: Scenario) -> None:
        conversation = await scenario.begin()
        action = {"action": "hang_after_commit", "seconds": 60}
        await scenario.system.e2b_admin.add_fault("create", action)
        await scenario.send(conversation, "Run: echo answered")

        async def created() -> bool:
            return bool(await sandboxes_of(scenario.system, conversation.session_id))

        await eventually("the sandbox is created", created)
        async with outage(scenario.system.control_plane, kill=True):
            await scenario.system.e2b_admin.clear_faults()
        assert "answered" in await conversation.answer()

    return play


async def _partitioned_in_a_turn(scenario: Scenario) -> None:
    """The operator alone is cut off, for longer than its Lease."""
    conversation = await scenario.begin()
    await scenario.send(conversation, "Run: echo kept > /mnt/session/file; sleep 6; echo answered")
    await becomes_phase(scenario, conversation, "Running")
    async with scenario.proxy.partitioned():
        assert "answered" in await conversation.answer()
    await scenario.settled(conversation)
    assert "kept" in await scenario.say(conversation, "Run: cat /mnt/session/file")


async def _partitioned_while_a_message_comes(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "kept" in await scenario.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scenario.settled(conversation)
    losses = _lease_losses(scenario)
    async with scenario.proxy.partitioned():
        await scenario.send(conversation, "Run: cat /mnt/session/file")
        await _lease_lost(scenario, losses)
    assert "kept" in await conversation.answer()


async def _partitioned_while_deleted(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    assert "done" in await scenario.say(conversation, "Run: echo done")
    await scenario.settled(conversation)
    losses = _lease_losses(scenario)
    async with scenario.proxy.partitioned():
        await delete(scenario, conversation)
        await _lease_lost(scenario, losses)


def _lease_losses(scenario: Scenario) -> int:
    return scenario.system.operator.log.read_text().count('"lease lost"')


async def _lease_lost(scenario: Scenario, before: int) -> None:
    async def lost() -> bool:
        return _lease_losses(scenario) > before

    await eventually("the Lease is lost", lost)


async def _silent(scenario: Scenario) -> None:
    """What a webhook creates and what people change is noticed by the resync alone."""
    suspended, deleted = await scenario.begin(), await scenario.begin()
    for each in (suspended, deleted):
        assert "done" in await scenario.say(each, "Run: echo done")
        await scenario.settled(each)
    scenario.proxy.silence_watches()
    await patch(scenario, suspended, {"spec": {"lifecycle": {"suspend": True}}})
    await delete(scenario, deleted)
    await becomes_phase(scenario, suspended, "Suspended")

    async def gone() -> bool:
        return not await resource(scenario.system, deleted.session_id)

    await eventually("the deleted one is gone", gone)
    new = await scenario.begin()
    assert "new" in await scenario.say(new, "Run: echo new")
    await patch(scenario, suspended, {"spec": {"lifecycle": {"suspend": False}}})
    assert "again" in await scenario.say(suspended, "Run: echo again")
    resyncs = [call for call in scenario.proxy.calls if call.operation == "list managedsessions"]
    assert len(resyncs) >= FOUR_RESYNCS


async def _expired(scenario: Scenario) -> None:
    """In the gap one resource vanishes, one changes and one comes."""
    vanished, changed = await scenario.begin(), await scenario.begin()
    for each in (vanished, changed):
        assert "done" in await scenario.say(each, "Run: echo done")
        await scenario.settled(each)
    sandbox_id = (await status(scenario, vanished))["sandbox"]["id"]
    silence = scenario.proxy.silence_watches()
    await delete_by_force(scenario, vanished)
    await patch(scenario, changed, {"spec": {"lifecycle": {"suspend": True}}})
    new = await scenario.begin()
    await scenario.send(new, "Run: echo new")
    scenario.proxy.remove(silence)
    await scenario.proxy.expire_watches()
    await becomes_phase(scenario, changed, "Suspended")
    assert "new" in await new.answer()
    await sandbox_killed(scenario.system, vanished.session_id, sandbox_id)
    await patch(scenario, changed, {"spec": {"lifecycle": {"suspend": False}}})
    assert "again" in await scenario.say(changed, "Run: echo again")


async def _expired_in_a_turn(scenario: Scenario) -> None:
    conversation = await scenario.begin()
    held = await scenario.hold(Effect("kubernetes", "status: heartbeat"), after_commit=False)
    await scenario.send(conversation, "Run: sleep 2; echo answered")
    await held.reached()
    await scenario.proxy.expire_watches()
    await scenario.calm()
    assert "answered" in await conversation.answer()


def _outages(how: str, outage: Outage) -> list[Row]:
    return [
        Row(
            FAMILY,
            f"{how} while a message comes",
            _while_a_message_comes(outage),
            arrangement=OWN_CONTROL_PLANE,
        ),
        Row(
            FAMILY,
            f"{how} while a create is on its way",
            _while_a_create_is_on_its_way(outage),
            arrangement=OWN_CONTROL_PLANE,
        ),
    ]


ROWS = [
    Row(
        FAMILY,
        "the API server is restarted while a worker runs",
        _while_a_worker_runs(_stopped, kill=False),
        arrangement=OWN_CONTROL_PLANE,
    ),
    Row(
        FAMILY,
        "the API server is killed while a worker runs",
        _while_a_worker_runs(_stopped, kill=True),
        arrangement=OWN_CONTROL_PLANE,
    ),
    Row(
        FAMILY,
        "etcd is stopped and started while a worker runs",
        _while_a_worker_runs(_etcd_stopped, kill=False),
        arrangement=OWN_CONTROL_PLANE,
    ),
    *_outages("the API server is killed", _stopped),
    *_outages("etcd is killed", _etcd_stopped),
    Row(
        FAMILY,
        "the operator alone reaches no API server while a worker runs",
        _partitioned_in_a_turn,
        arrangement=QUEUE_ONLY,
    ),
    Row(
        FAMILY,
        "the operator alone reaches no API server while a message comes",
        _partitioned_while_a_message_comes,
    ),
    Row(
        FAMILY,
        "the operator alone reaches no API server while a resource is deleted",
        _partitioned_while_deleted,
        outcome=Outcome(gone=True),
    ),
    Row(FAMILY, "the watch is silent for four resyncs", _silent),
    Row(FAMILY, "the watch expires and objects vanished, changed and came in the gap", _expired),
    Row(FAMILY, "the watch expires in the middle of a turn", _expired_in_a_turn, arrangement=QUEUE_ONLY),
]
