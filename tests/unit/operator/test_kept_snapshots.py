"""Which snapshots are taken, kept and used."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.conditions import Reason
from managed_session_api.resource import DeletionPolicy, SnapshotsSpec, SnapshotStatus
from managed_session_api.times import to_wire
from managed_session_operator.domain import kept_snapshots as snapshots
from managed_session_operator.domain.class_choice import Choice
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.step import Decision, Step
from managed_session_worker.protocol import ExitReason

from .examples import (
    CLAIM,
    CREATING,
    LOST,
    PAUSED,
    RUNNING,
    ago,
    observation,
    offer,
    policy,
    record,
    run,
    work,
)
from .examples import session as resource_of

NEW = {"name": "new", "sandboxID": "isandbox", "claim": CLAIM}
"""One that was begun after the newest worker."""
TAKEN = {**NEW, "id": "team/new", "takenAt": to_wire(ago(20))}
OLD = {
    "name": "old",
    "id": "team/old",
    "sandboxID": "isandbox",
    "claim": "earlier",
    "takenAt": to_wire(ago(500)),
}
IDLE_WORK = work(acknowledged=60, heartbeat=50, finished=5, reason="Idle")
SERVED = {"work": IDLE_WORK, "sandbox": PAUSED, "turns": 1}
ENDING = {"work": work(acknowledged=60, heartbeat=50), "sandbox": RUNNING}
AFTER_EACH_TURN = policy(snapshots=SnapshotsSpec(after_each_turn=True))
RETAIN = policy(deletion_policy=DeletionPolicy.RETAIN)
REPLACED = {"id": "iformer", "fromSnapshot": "team/first", "unclean": True}


def asks(snapshot: str | None = None, restore: str | None = None) -> dict[str, Any]:
    """Return a spec that asks for a snapshot or a restore."""
    wanted = {"id": "r1", "snapshotID": restore} if restore is not None else None
    return {"spec": {"requests": {"snapshot": snapshot, "restore": wanted}}}


def deleted(status: dict[str, Any]) -> dict[str, Any]:
    return {"status": status, "deletionTimestamp": to_wire(ago(1))}


def ended(reason: str = "Idle", **known: Any) -> dict[str, Any]:
    """Return what is observed when the worker of a running sandbox has ended."""
    return {"run": run(heartbeat=True, record=record(reason)), "connected": True, **known}


def test_the_newest_of_each_sort_are_kept() -> None:
    def some(sort: str | None, *ids: str | None) -> list[SnapshotStatus]:
        return [
            SnapshotStatus(name=f"{sort}-{number}", id=each, requested=sort, sandbox_id="isandbox")
            for number, each in enumerate(ids)
        ]

    after_turns, asked = some(None, "a", "b", "c", "d", None), some("name", "e", "f")
    found = [*after_turns, *asked]
    assert [each.id for each in snapshots.excess(found, SnapshotsSpec(keep_last=2))] == ["a", "b"]
    assert [each.id for each in snapshots.excess(found, SnapshotsSpec(keep_last=1))] == ["e", "a", "b", "c"]
    assert [each.id for each in snapshots.excess(found, None)] == ["a"], "three by default"
    assert snapshots.excess([], None) == []


def test_a_snapshot_has_all_files_until_another_worker_runs_or_the_sandbox_is_another() -> None:
    assert snapshots.current(resource_of({**SERVED, "snapshots": [OLD, TAKEN]})) is not None
    assert snapshots.current(resource_of({**SERVED, "snapshots": [OLD]})) is None, "a worker ran since"
    assert snapshots.current(resource_of({**SERVED, "snapshots": [NEW]})) is None, "it may not exist"
    other = {**SERVED, "sandbox": {**PAUSED, "id": "iother"}, "snapshots": [TAKEN]}
    assert snapshots.current(resource_of(other)) is None


def test_a_request_is_served_once() -> None:
    assert snapshots.requested(resource_of(SERVED, **asks("a"))) == "a"
    assert snapshots.requested(resource_of({**SERVED, "requests": {"snapshot": "a"}}, **asks("a"))) is None
    assert snapshots.requested(resource_of({**SERVED, "requests": {"snapshot": "a"}}, **asks("b"))) == "b"
    assert snapshots.restore_requested(resource_of(SERVED, **asks(restore="x"))) is not None
    served = {**SERVED, "requests": {"restore": "r1"}}
    assert snapshots.restore_requested(resource_of(served, **asks(restore="x"))) is None


def test_the_next_sandbox_comes_from_the_restore_then_the_newest_snapshot_then_the_policy() -> None:
    with_own = {"snapshots": [OLD, TAKEN, {**NEW, "name": "unfinished"}]}
    forked = policy(from_snapshot="team/theirs")
    assert snapshots.source_of(resource_of(with_own, **asks(restore="team/old")), forked) == "team/old"
    assert snapshots.source_of(resource_of(with_own), forked) == "team/new"
    assert snapshots.source_of(resource_of({}), forked) == "team/theirs"
    assert snapshots.source_of(resource_of({}), policy()) is None


def test_only_another_sessions_snapshot_makes_a_sandbox_unclean() -> None:
    own = snapshots.source_fields(resource_of({"snapshots": [TAKEN]}), policy())
    assert own == {"fromSnapshot": "team/new", "unclean": None}
    theirs = snapshots.source_fields(resource_of({}), policy(from_snapshot="team/theirs"))
    assert theirs == {"fromSnapshot": "team/theirs", "unclean": True}
    assert snapshots.source_fields(resource_of({}), policy()) == {"fromSnapshot": None, "unclean": None}


def test_a_restore_remembers_the_sandbox_that_it_replaces() -> None:
    before = {**SERVED, "sandbox": {**PAUSED, "fromSnapshot": "team/first", "unclean": True}}
    fields = snapshots.source_fields(resource_of(before, **asks(restore="team/theirs")), policy())
    replaced = {"id": "isandbox", "fromSnapshot": "team/first", "unclean": True}
    assert fields == {"fromSnapshot": "team/theirs", "unclean": True, "id": None, "replaces": replaced}
    assert snapshots.restore_fields(resource_of(before, **asks(restore="x"))) == {"restore": "r1"}
    assert snapshots.restore_fields(resource_of(before)) == {}


@pytest.mark.parametrize(
    ("status", "begins"),
    [
        (SERVED, True),
        ({**SERVED, "sandbox": LOST}, True),
        ({**SERVED, "sandbox": RUNNING}, False),
        ({**SERVED, "sandbox": CREATING}, False),
        ({"sandbox": PAUSED, "work": work(acknowledged=60, heartbeat=50)}, False),
        ({"sandbox": PAUSED, "work": work()}, True),
        ({**SERVED, "requests": {"restore": "r1"}}, False),
    ],
)
def test_a_restore_begins_only_where_no_worker_can_be(status: dict[str, Any], begins: bool) -> None:
    resource = resource_of(status, **asks(restore="x"))
    assert snapshots.restore_begins(resource) is begins
    left = snapshots.without_sandbox(resource).status.sandbox.id
    assert left == (None if begins else resource.status.sandbox.id)


def test_an_attempt_serves_the_restore_for_which_it_was_begun() -> None:
    attempt = {**CREATING, "fromSnapshot": "x"}
    begun = {"sandbox": attempt, "requests": {"restore": "r1"}}
    assert snapshots.is_restoring(resource_of(begun, **asks(restore="x")))
    assert not snapshots.is_restoring(resource_of(begun, **asks(restore="y"))), "somebody changed his mind"
    assert not snapshots.is_restoring(resource_of({"sandbox": attempt}, **asks(restore="x")))
    assert not snapshots.is_restoring(resource_of(begun))


def test_a_lost_sandbox_that_comes_back_with_older_files_says_so() -> None:
    back = {**RUNNING, "fromSnapshot": "team/new", "vanished": ["igone"]}
    message = snapshots.went_back(resource_of({"sandbox": back, "snapshots": [TAKEN]}))
    assert message is not None
    assert "igone vanished" in message
    assert "team/new" in message
    for fine in (
        {**back, "vanished": []},
        {**back, "fromSnapshot": "team/theirs"},
        {**back, "replaces": REPLACED},
    ):
        assert snapshots.went_back(resource_of({"sandbox": fine, "snapshots": [TAKEN]})) is None


@pytest.mark.parametrize(
    ("status", "due"),
    [
        (SERVED, True),
        ({**SERVED, "snapshots": [OLD, NEW]}, True),
        ({**SERVED, "snapshots": [TAKEN]}, False),
        ({**SERVED, "sandbox": LOST}, False),
        ({**SERVED, "sandbox": CREATING}, False),
        ({"sandbox": PAUSED}, False),
    ],
)
def test_a_deleted_session_is_retained_if_it_has_files_that_no_snapshot_has(
    status: dict[str, Any], due: bool
) -> None:
    resource = resource_of(status)
    assert snapshots.retention_due(resource, RETAIN) is due
    assert not snapshots.retention_due(resource, policy())
    gone = resource_of(**deleted(status))
    for connected, step in ((True, Step.RETAIN), (False, Step.PROVISION)):
        found = decide(gone, observation(policy=RETAIN, connected=connected)).step
        assert found is (step if due else Step.FINALIZE)
    assert decide(gone, observation(policy=RETAIN, missing=True)).step is Step.FINALIZE


def test_a_snapshot_is_taken_at_the_orderly_end_of_each_turn_if_the_policy_says_so() -> None:
    ending = resource_of(ENDING)
    assert decide(ending, observation(**ended(policy=AFTER_EACH_TURN))).step is Step.TAKE_SNAPSHOT
    assert decide(ending, observation(**ended())).step is Step.FINISH
    without_end = ended(ExitReason.LEASE_LOST, policy=AFTER_EACH_TURN)
    assert decide(ending, observation(**without_end)).step is Step.FINISH
    cut = ended(policy=AFTER_EACH_TURN, connected=False)
    assert decide(ending, observation(**cut)).step is Step.FINISH
    unstarted = {"run": run(record=record()), "connected": True, "policy": AFTER_EACH_TURN}
    assert decide(ending, observation(**unstarted)).step is Step.FINISH


def test_a_snapshot_after_a_turn_is_neither_taken_twice_nor_tried_again() -> None:
    there = resource_of({**ENDING, "snapshots": [TAKEN]})
    assert decide(there, observation(**ended(policy=AFTER_EACH_TURN))).step is Step.FINISH
    failed = ended(policy=AFTER_EACH_TURN, snapshot_again_after=30.0)
    assert decide(resource_of(ENDING), observation(**failed)).step is Step.FINISH
    asked = resource_of({**ENDING, "snapshots": [TAKEN]}, **asks("name"))
    assert decide(asked, observation(**ended())).step is Step.TAKE_SNAPSHOT, "one that is asked for"


def test_a_requested_snapshot_of_a_resting_session_is_taken_once_its_sandbox_runs() -> None:
    asked = resource_of(SERVED, **asks("name"))
    assert decide(asked, observation()).step is Step.PROVISION
    running = resource_of({**SERVED, "sandbox": RUNNING}, **asks("name"))
    assert decide(running, observation(connected=True)).step is Step.TAKE_SNAPSHOT
    assert decide(resource_of(SERVED), observation()).step is Step.WAIT


def test_a_requested_snapshot_that_failed_waits_in_a_paused_sandbox() -> None:
    waits = decide(resource_of(SERVED, **asks("name")), observation(snapshot_again_after=7.0))
    assert (waits.step, waits.reason, waits.again_after) == (Step.WAIT, Reason.IDLE, 7.0)
    running = resource_of({**SERVED, "sandbox": RUNNING}, **asks("name"))
    assert decide(running, observation(connected=True, snapshot_again_after=7.0)).step is Step.PAUSE


def test_offered_work_goes_before_a_requested_snapshot_and_an_ended_session_needs_none() -> None:
    asked = resource_of(SERVED, **asks("name", "x"))
    assert decide(asked, observation(offer=offer(), message_known=True)).step is Step.CLAIM
    over = resource_of({**SERVED, "endedAt": to_wire(ago(1))}, **asks("name", "x"))
    assert decide(over, observation()).step is Step.WAIT


def test_a_restore_creates_the_new_sandbox_then_kills_the_former_one() -> None:
    assert decide(resource_of(SERVED, **asks(restore="x")), observation()).step is Step.PROVISION
    begun = {**SERVED, "requests": {"restore": "r1"}}

    def step(sandbox: dict[str, Any]) -> Step:
        status = {**begun, "sandbox": {**sandbox, "replaces": REPLACED}}
        return decide(resource_of(status, **asks(restore="x")), observation()).step

    assert step(CREATING) is Step.PROVISION
    assert step(RUNNING) is Step.KILL_REPLACED
    assert step({"attempt": 1}) is Step.UNDO_RESTORE, "the create was refused"
    gone = decide(
        resource_of(**deleted({**begun, "sandbox": {**RUNNING, "replaces": REPLACED}})), observation()
    )
    assert gone.step is Step.FINALIZE


def test_a_restore_waits_until_the_class_of_its_sandbox_is_certain() -> None:
    asked = resource_of(SERVED, **asks(restore="x"))
    tied = decide(asked, observation(choice=Choice(tied=("gold", "silver"))))
    assert (tied.step, tied.reason) == (Step.WAIT, Reason.AMBIGUOUS_CLASS)
    assert decide(asked, observation(choice=Choice(undecided=True))).step is Step.LEARN_SESSION


def test_a_deleted_session_is_not_restored_and_retains_the_files_that_it_had() -> None:
    asked = resource_of(**deleted(SERVED), **asks(restore="x"))
    assert decide(asked, observation(policy=RETAIN)).step is Step.PROVISION
    assert not snapshots.restore_begins(asked), "its present sandbox is resumed"
    for state in (CREATING, {"attempt": 1}):
        begun = {**SERVED, "requests": {"restore": "r1"}, "sandbox": {**state, "replaces": REPLACED}}
        resource = resource_of(**deleted(begun), **asks(restore="x"))
        assert decide(resource, observation(policy=RETAIN)).step is Step.UNDO_RESTORE
        assert decide(resource, observation()).step is Step.FINALIZE


@pytest.mark.parametrize("step", [Step.PREPARE, Step.ACKNOWLEDGE, Step.START_WORKER])
def test_another_sessions_processes_are_ended_before_anything_is_given_to_the_sandbox(step: Step) -> None:
    unclean = resource_of({"work": work(), "sandbox": {**RUNNING, "unclean": True}})
    first = snapshots.with_snapshots(unclean, observation(connected=True), Decision(step))
    assert first.step is Step.CLEAN_SANDBOX
    assert snapshots.with_snapshots(unclean, observation(), Decision(step)).step is step, "not reached yet"
    clean = resource_of({"work": work(), "sandbox": RUNNING})
    assert snapshots.with_snapshots(clean, observation(connected=True), Decision(step)).step is step
