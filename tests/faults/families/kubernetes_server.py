"""The API server, its etcd or its watch away: for all, or for the operator alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from managed_session_local.control_plane import ControlPlane

from ...cluster.sessions import resource, sandboxes_of
from ...cluster.waiting import eventually
from ..arrangements import OWN_CONTROL_PLANE, QUEUE_ONLY
from ..by_hand import becomes_phase, delete, delete_by_force, patch, sandbox_killed, status
from ..effects import Effect
from ..row import Outcome, Row
from ..scene import Scene

FAMILY = "kubernetes"

Play = Callable[[Scene], Awaitable[None]]
Outage = Callable[..., AbstractAsyncContextManager[None]]

FOUR_SWEEPS = 4
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

    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        await scene.send(conversation, "Run: echo kept > /mnt/session/file; sleep 3; echo answered")
        await becomes_phase(scene, conversation, "Running")
        async with outage(scene.system.control_plane, kill=kill):
            assert "answered" in await conversation.answer()
        await scene.settled(conversation)
        assert "kept" in await scene.say(conversation, "Run: cat /mnt/session/file")

    return play


def _while_a_message_comes(outage: Outage) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        assert "kept" in await scene.say(conversation, "Run: echo kept | tee /mnt/session/file")
        await scene.settled(conversation)
        admin = scene.system.anthropic_admin
        before = (await admin.session(conversation.session_id)).counts["work_enqueued"]
        async with outage(scene.system.control_plane, kill=True):
            await scene.send(conversation, "Run: cat /mnt/session/file")

            async def queued() -> bool:
                return (await admin.session(conversation.session_id)).counts["work_enqueued"] > before

            await eventually("the work is queued", queued)
        assert "kept" in await conversation.answer()

    return play


def _while_a_create_is_on_its_way(outage: Outage) -> Play:
    async def play(scene: Scene) -> None:
        conversation = await scene.begin()
        action = {"action": "hang_after_commit", "seconds": 60}
        await scene.system.e2b_admin.add_fault("create", action)
        await scene.send(conversation, "Run: echo answered")

        async def created() -> bool:
            return bool(await sandboxes_of(scene.system, conversation.session_id))

        await eventually("the sandbox is created", created)
        async with outage(scene.system.control_plane, kill=True):
            await scene.system.e2b_admin.clear_faults()
        assert "answered" in await conversation.answer()

    return play


async def _partitioned_in_a_turn(scene: Scene) -> None:
    """The operator alone is cut off, for longer than its Lease."""
    conversation = await scene.begin()
    await scene.send(conversation, "Run: echo kept > /mnt/session/file; sleep 5; echo answered")
    await becomes_phase(scene, conversation, "Running")
    async with scene.proxy.partitioned():
        assert "answered" in await conversation.answer()
    await scene.settled(conversation)
    assert "kept" in await scene.say(conversation, "Run: cat /mnt/session/file")


async def _partitioned_while_a_message_comes(scene: Scene) -> None:
    conversation = await scene.begin()
    assert "kept" in await scene.say(conversation, "Run: echo kept | tee /mnt/session/file")
    await scene.settled(conversation)
    losses = _lease_losses(scene)
    async with scene.proxy.partitioned():
        await scene.send(conversation, "Run: cat /mnt/session/file")
        await _lease_lost(scene, losses)
    assert "kept" in await conversation.answer()


async def _partitioned_while_deleted(scene: Scene) -> None:
    conversation = await scene.begin()
    assert "done" in await scene.say(conversation, "Run: echo done")
    await scene.settled(conversation)
    losses = _lease_losses(scene)
    async with scene.proxy.partitioned():
        await delete(scene, conversation)
        await _lease_lost(scene, losses)


def _lease_losses(scene: Scene) -> int:
    return scene.system.operator.log.read_text().count('"lease lost"')


async def _lease_lost(scene: Scene, before: int) -> None:
    async def lost() -> bool:
        return _lease_losses(scene) > before

    await eventually("the Lease is lost", lost)


async def _silent(scene: Scene) -> None:
    """What a webhook creates and what people change is noticed by the sweep alone."""
    suspended, deleted = await scene.begin(), await scene.begin()
    for each in (suspended, deleted):
        assert "done" in await scene.say(each, "Run: echo done")
        await scene.settled(each)
    scene.proxy.silence_watches()
    await patch(scene, suspended, {"spec": {"lifecycle": {"suspend": True}}})
    await delete(scene, deleted)
    await becomes_phase(scene, suspended, "Suspended")

    async def gone() -> bool:
        return not await resource(scene.system, deleted.session_id)

    await eventually("the deleted one is gone", gone)
    new = await scene.begin()
    assert "new" in await scene.say(new, "Run: echo new")
    await patch(scene, suspended, {"spec": {"lifecycle": {"suspend": False}}})
    assert "again" in await scene.say(suspended, "Run: echo again")
    sweeps = [call for call in scene.proxy.calls if call.operation == "list managedsessions"]
    assert len(sweeps) >= FOUR_SWEEPS


async def _expired(scene: Scene) -> None:
    """In the gap one resource vanishes, one changes and one comes."""
    vanished, changed = await scene.begin(), await scene.begin()
    for each in (vanished, changed):
        assert "done" in await scene.say(each, "Run: echo done")
        await scene.settled(each)
    sandbox_id = (await status(scene, vanished))["sandbox"]["id"]
    silence = scene.proxy.silence_watches()
    await delete_by_force(scene, vanished)
    await patch(scene, changed, {"spec": {"lifecycle": {"suspend": True}}})
    new = await scene.begin()
    await scene.send(new, "Run: echo new")
    scene.proxy.remove(silence)
    await scene.proxy.expire_watches()
    await becomes_phase(scene, changed, "Suspended")
    assert "new" in await new.answer()
    await sandbox_killed(scene.system, vanished.session_id, sandbox_id)
    await patch(scene, changed, {"spec": {"lifecycle": {"suspend": False}}})
    assert "again" in await scene.say(changed, "Run: echo again")


async def _expired_in_a_turn(scene: Scene) -> None:
    conversation = await scene.begin()
    held = await scene.hold(Effect("kubernetes", "status: heartbeat"), after_commit=False)
    await scene.send(conversation, "Run: sleep 2; echo answered")
    await held.reached()
    await scene.proxy.expire_watches()
    await scene.calm()
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
    Row(FAMILY, "the watch is silent for four sweeps", _silent),
    Row(FAMILY, "the watch expires and objects vanished, changed and came in the gap", _expired),
    Row(FAMILY, "the watch expires in the middle of a turn", _expired_in_a_turn, arrangement=QUEUE_ONLY),
]
