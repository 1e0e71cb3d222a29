"""What the steps do to a shared sandbox when calls fail, a leader has died, or sessions come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.times import to_wire
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.session_handle import session_key_of
from managed_session_operator.domain.work_item import WorkItem
from managed_session_operator.domain.worker_run import WorkerRun
from managed_session_operator.steps.hooks import reach_running
from managed_session_operator.steps.paused_wait import resume_wait
from managed_session_operator.steps.sandbox_connection import BUSY, STRICT_PAUSES
from managed_session_operator.steps.shared_sandbox import depart, pause_shared
from managed_session_operator.steps.worker_stream import reattach

from .examples import ENVIRONMENT, body, class_body, work
from .shared_world import SESSIONS, SHARING, Machine, Operator, Sandboxes, Streams, World

FIRST, SECOND, THIRD = SESSIONS
NO_ANSWER = OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, "no answer")


@dataclass(frozen=True)
class Busy(Sandboxes):
    """E2B refuses strict pauses, and answers `unanswered` questions with an error."""

    unanswered: list[str] = field(default_factory=list)
    strict: list[bool] = field(default_factory=list)

    async def info(self, sandbox_id: str) -> SandboxView | None:
        if self.unanswered:
            raise OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_UNREACHABLE, self.unanswered.pop())
        return await super().info(sandbox_id)

    async def pause(self, sandbox_id: str, *, strict: bool = True) -> SandboxView | None:
        self.strict.append(strict)
        if strict:
            raise OperationError(ErrorKind.TRANSIENT, Reason.PAUSE_FAILED, "busy", status=BUSY)
        return await super().pause(sandbox_id)


@dataclass(frozen=True)
class Workers(Streams):
    """The sessions in their sandboxes, with their workers' streams."""

    stays: set[str] = field(default_factory=set)
    left: list[str | None] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    resumed: dict[str, bool] = field(default_factory=dict)

    async def leave(self, sandbox: Any) -> None:
        self.world.now += timedelta(seconds=9)
        if session_key_of(sandbox) in self.stays:
            raise NO_ANSWER
        self.left.append(session_key_of(sandbox))
        await super().leave(sandbox)

    async def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def get(self, *_: object) -> None:
        return None

    async def watch(self, name: str, sandbox: Any, claim: str, _: int, *, resumed: bool = False) -> WorkerRun:
        self.resumed[name] = resumed
        return WorkerRun(claim, sandbox.sandbox_id, accepted=True)


@dataclass(frozen=True)
class Queue:
    """Has the session's item, whose lease the worker holds."""

    world: World
    environment_id: str = ENVIRONMENT
    base_url: str = "https://api.anthropic.com"

    async def item(self, work_id: str) -> WorkItem:
        return WorkItem(work_id, FIRST, "active", self.world.now, self.world.now, self.world.now)


def machine(world: World) -> Machine:
    """Return the only sandbox."""
    (found,) = world.machines.values()
    return found


def next_leader(world: World) -> Operator:
    """Return a process that has just become the leader."""
    operator = Operator(world)
    operator.context.runs = Workers(world)  # type: ignore[assignment]
    operator.context.queue = Queue(world)  # type: ignore[assignment]
    return operator


async def both_work(world: World) -> Operator:
    """Have two sessions work in one sandbox."""
    operator = next_leader(world)
    await operator.works(FIRST, 1)
    await operator.works(SECOND, 2)
    return operator


async def test_hook_before_a_pause_runs_in_its_session_after_a_change_of_the_leader() -> None:
    world = World()
    await both_work(world)
    operator = next_leader(world)
    resource = operator.resource(FIRST)
    await reach_running(operator.context, resource)
    handle = operator.context.cache(resource.metadata.name).sandbox
    assert handle is not None
    assert session_key_of(handle) == resource.session_key


async def test_worker_whose_sandbox_another_session_may_have_resumed_opens_its_connections_again() -> None:
    world = World()
    await both_work(world)
    operator = next_leader(world)
    resource = operator.change(FIRST, work=work(acknowledged=50, heartbeat=40))
    await reattach(operator.context, resource)
    assert operator.context.runs.resumed == {resource.metadata.name: True}  # type: ignore[attr-defined]


async def test_worker_that_works_beside_others_when_its_user_has_answered_waits_for_no_slot() -> None:
    operator = await both_work(world := World())
    name = names.resource_name(FIRST)
    served = work(acknowledged=50, heartbeat=40)
    since = to_wire(world.now)
    served |= {"awaitingUserSince": since, "awaitedAnswers": ["x"], "waitPausedAt": since}
    resource = operator.change(FIRST, work=served, sandbox={"state": "Paused"})
    operator.context.cache(name).disconnect()
    operator.context.capacity = capacity = Capacity(1, 80, clock=world.monotonic)
    capacity.hold(names.resource_name(SECOND))
    await resume_wait(operator.context, resource)
    assert capacity.holds(name)
    assert operator.resource(FIRST).status.work.wait_paused_at is None


async def test_session_is_not_detached_by_a_call_that_is_not_answered() -> None:
    operator = await both_work(world := World())
    context, resource = operator.context, operator.resource(FIRST)
    name, sandbox_id = resource.metadata.name, machine(world).sandbox_id
    context.sandboxes = Busy(world, unanswered=["no answer"])  # type: ignore[assignment]
    with pytest.raises(OperationError, match="no answer"):
        await pause_shared(context, resource, sandbox_id, strict=True, for_all=False)
    assert not context.sharing.is_detached(name)
    await pause_shared(context, resource, sandbox_id, strict=True, for_all=False)
    assert context.sharing.is_detached(name)


async def test_other_sessions_connect_again_after_a_roll_over_that_e2b_refused() -> None:
    operator = await both_work(world := World())
    context = operator.context
    context.sandboxes = Busy(world)  # type: ignore[assignment]
    with pytest.raises(OperationError, match="busy"):
        await pause_shared(
            context, operator.resource(FIRST), machine(world).sandbox_id, strict=True, for_all=True
        )
    assert context.runs.forgotten == [names.resource_name(SECOND)]  # type: ignore[attr-defined]


async def test_deletion_does_not_wait_for_a_sandbox_that_cannot_be_paused_and_the_resync_pauses_it() -> None:
    operator = await both_work(world := World())
    for each in (FIRST, SECOND):
        machine(world).workers.discard(each)
    operator.change(
        SECOND, work={"claim": "c", "finishedAt": to_wire(world.now)}, sandbox={"state": "Paused"}
    )
    operator.context.cache(names.resource_name(SECOND)).disconnect()
    operator.context.capacity.release(names.resource_name(SECOND))
    operator.context.sandboxes = busy = Busy(world)  # type: ignore[assignment]
    assert not await depart(operator.context, operator.resource(FIRST))
    operator.context.records.cache.remove(names.resource_name(FIRST))
    await operator.context.forget(names.resource_name(FIRST))
    for _ in range(STRICT_PAUSES + 2):
        await operator.compares()
    assert busy.strict == [True] * (STRICT_PAUSES + 1) + [False]
    assert machine(world).paused


async def test_files_of_deleted_sessions_hold_up_no_turn_for_long_and_not_each_other() -> None:
    operator = await both_work(world := World())
    keys = ["s1", "s2", "s3", "s4", "s5"]
    (owner,) = world.owners.bodies.values()
    owner["status"]["departed"] = keys
    operator.context.runs = workers = Workers(world, stays={"s1"})  # type: ignore[assignment]
    await operator.works(THIRD, 3)
    assert workers.left == []
    (owner,) = world.owners.bodies.values()
    assert owner["status"]["departed"] == ["s2", "s3", "s4", "s5", "s1"]
    operator.context.cache(names.resource_name(THIRD)).disconnect()
    await operator.works(THIRD, 4)
    (owner,) = world.owners.bodies.values()
    assert owner["status"]["departed"] == ["s5", "s1"]


async def test_session_that_was_deleted_and_restored_is_not_removed_under_its_worker() -> None:
    operator = await both_work(world := World())
    former = operator.resource(FIRST)
    for each in (FIRST, SECOND):
        await operator.rests(each)
    await operator.goes(FIRST)
    annotations = {names.ANNOTATION_IDENTITY: former.identity}
    name = former.metadata.name
    world.bodies[name] = body(name, uid="restored", session=FIRST, spec=SHARING, annotations=annotations)
    operator.context.records.cache.observe(world.bodies[name])
    (owner,) = world.owners.bodies.values()
    assert owner["status"]["departed"] == [former.session_key]
    await operator.works(FIRST, 3)
    await operator.works(SECOND, 4)
    assert former.session_key in machine(world).folders
    assert operator.context.runs.left == []  # type: ignore[attr-defined]
    (owner,) = world.owners.bodies.values()
    assert owner["status"]["departed"] == []


async def test_deletion_asks_a_running_sandbox_again_to_end_the_session_before_it_leaves_its_files() -> None:
    operator = await both_work(world := World())
    machine(world).workers.discard(FIRST)
    key = operator.resource(FIRST).session_key
    workers = Workers(world, stays={key})
    operator.context.runs = workers  # type: ignore[assignment]
    name = names.resource_name(FIRST)
    changed = operator.store.merge(name, {"metadata": {"deletionTimestamp": to_wire(world.now)}})
    resource = operator.context.records.note(changed)
    with pytest.raises(OperationError, match="no answer"):
        await depart(operator.context, resource)
    workers.stays.clear()
    assert not await depart(operator.context, resource)
    (owner,) = world.owners.bodies.values()
    assert owner["status"].get("departed", []) == []
    workers.stays.add(key)
    world.now += timedelta(seconds=90)
    assert not await depart(operator.context, resource)
    (owner,) = world.owners.bodies.values()
    assert owner["status"]["departed"] == [key]


async def test_session_whose_class_has_changed_since_its_claim_shares_the_sandbox_of_the_new_class() -> None:
    operator = next_leader(world := World())
    name = names.resource_name(FIRST)
    world.bodies[name] = body(name, session=FIRST, spec=SHARING)
    operator.context.records.cache.observe(world.bodies[name])
    operator.change(FIRST, work={"claim": "c1"}, sandbox={"state": "Creating", "attempt": 1})
    operator.context.classes.cache.observe(class_body("gold"))
    await operator.works(FIRST, 1)
    (owner,) = world.owners.bodies.values()
    recorded = operator.resource(FIRST).status.session_class
    assert recorded is not None
    assert (owner["spec"]["class"], recorded.name) == ("gold", "gold")


async def test_restored_managed_sandbox_is_kept_until_its_sessions_may_be_restored_too() -> None:
    operator = await both_work(world := World())
    await operator.compares()
    for each in (FIRST, SECOND):
        machine(world).workers.discard(each)
        del world.bodies[names.resource_name(each)]
    operator = next_leader(world)
    for _ in range(3):
        await operator.compares()
    assert machine(world).paused, "it runs for nobody"
    world.now += timedelta(seconds=operator.context.settings.orphan_grace_seconds)
    await operator.compares()
    assert not world.machines
    assert not world.owners.bodies


async def test_managed_sandbox_whose_sessions_this_leader_has_seen_goes_with_them() -> None:
    operator = await both_work(world := World())
    await operator.compares()
    for each in (FIRST, SECOND):
        machine(world).workers.discard(each)
        operator.context.records.cache.remove(names.resource_name(each))
    await operator.compares()
    assert world.machines, "what looks odd once may be about to change"
    await operator.compares()
    assert not world.machines
