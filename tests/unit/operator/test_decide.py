"""The next step, state by state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.events import END_TYPES
from managed_session_api.resource import OnSandboxLost
from managed_session_operator.domain.class_choice import Choice
from managed_session_operator.domain.decide import LEASE_SECONDS, decide, lease_lives
from managed_session_operator.domain.step import Step
from managed_session_operator.domain.work_item import WorkItem
from managed_session_operator.domain.worker_run import Refusal
from managed_session_worker.protocol import RefusalCode

from .examples import (
    CREATING,
    ENVIRONMENT,
    LOST,
    NAME,
    NOW,
    PAUSED,
    RUNNING,
    SESSION,
    ago,
    announced_run,
    observation,
    offer,
    policy,
    record,
    run,
    session,
    work,
)

UNPROVEN: dict[str, Any] = {"finalizers": []}
ENDED = {"endedAt": "2026-11-23T16:59:00Z", "sandbox": PAUSED}
SUSPENDED = {"spec": {"lifecycle": {"suspend": True}}}
STARTING = {"work": work(acknowledged=5), "sandbox": RUNNING}
SERVING = {"work": work(acknowledged=50, heartbeat=40), "sandbox": RUNNING}


def _step(status: dict[str, Any] | None, known: dict[str, Any], more: dict[str, Any] | None = None) -> Step:
    return decide(session(status, **(more or {})), observation(**known)).step


def test_an_unverified_session_is_verified_first() -> None:
    with_announced_run = {"lastEvent": announced_run()}
    assert _step(with_announced_run, {}, UNPROVEN) is Step.VERIFY_OWNERSHIP
    assert _step(with_announced_run, {}, {"spec": {"environmentID": None}}) is Step.VERIFY_OWNERSHIP


def test_offered_work_proves_that_the_session_is_ours() -> None:
    assert _step(None, {"offer": offer()}, UNPROVEN) is Step.TAKE_OWNERSHIP


def test_a_resource_of_another_environment_is_rejected_and_names_it() -> None:
    foreign = session(SERVING, spec={"environmentID": "env_other"})
    decision = decide(foreign, observation(offer=offer(), run=run(record=record())))
    assert (decision.step, decision.reason) == (Step.REFUSE, Reason.ENVIRONMENT_MISMATCH)
    assert "env_other" in decision.message
    assert ENVIRONMENT in decision.message


def test_a_younger_resource_of_the_same_session_is_rejected_and_names_the_older_one() -> None:
    decision = decide(
        session({"lastEvent": announced_run()}), observation(serving_name="older", offer=offer())
    )
    assert (decision.step, decision.reason) == (Step.REFUSE, Reason.DUPLICATE_SESSION)
    assert "older" in decision.message


def test_a_verified_announced_run_is_provisioned_before_its_work_is_offered() -> None:
    assert _step({"lastEvent": announced_run()}, {}) is Step.PROVISION
    assert _step({"lastEvent": announced_run(), "sandbox": PAUSED}, {}) is Step.PROVISION


def test_a_provisioned_announced_run_waits_for_its_work_no_longer_than_the_attach_timeout() -> None:
    decision = decide(
        session({"lastEvent": announced_run(), "sandbox": RUNNING}), observation(connected=True)
    )
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.AWAITING_CLAIM)
    assert decision.again_after is not None
    assert decision.again_after <= 60


def test_an_announced_run_without_work_gives_up_its_sandbox() -> None:
    known = {"announced_run_expired": True, "connected": True}
    assert _step({"lastEvent": announced_run(100), "sandbox": RUNNING}, known) is Step.PAUSE
    assert (
        _step({"lastEvent": announced_run(100), "sandbox": CREATING}, {"announced_run_expired": True})
        is Step.RESOLVE_CREATE
    )


def test_an_announced_run_gives_up_its_sandbox_if_claimed_work_needs_the_slot() -> None:
    assert _step(
        {"lastEvent": announced_run(), "sandbox": RUNNING},
        {"announced_run_displaced": True, "connected": True},
    ) is (Step.PAUSE)


def test_a_session_whose_work_stays_in_the_queue_says_so_and_keeps_its_sandbox() -> None:
    assert _step({"sandbox": PAUSED}, {"queued": True}) is Step.AWAIT_SLOT
    assert _step({"sandbox": RUNNING}, {"queued": True, "connected": True}) is Step.PAUSE
    idle_for_long = {"queued": True, "policy": policy(idle_ttl_seconds=1)}
    assert _step({"sandbox": PAUSED}, idle_for_long) is Step.AWAIT_SLOT


def test_a_run_answered_by_a_finished_turn_is_no_longer_announced() -> None:
    done = {"work": work(acknowledged=50, heartbeat=40, finished=5, reason="Idle"), "sandbox": PAUSED}
    assert _step({**done, "lastEvent": announced_run(20)}, {}) is Step.WAIT
    assert _step({**done, "lastEvent": announced_run(1)}, {}) is Step.PROVISION


def test_an_offer_is_claimed_as_soon_as_a_message_is_known() -> None:
    assert _step(None, {"offer": offer(), "message_known": True}) is Step.CLAIM
    assert _step({"lastEvent": announced_run()}, {"offer": offer()}) is Step.CLAIM


def test_an_offer_of_a_session_without_a_message_waits_and_is_then_released() -> None:
    assert _step(None, {"offer": offer(1)}) is Step.AWAIT_MESSAGE
    assert _step(None, {"offer": offer(61)}) is Step.RELEASE_UNUSED


def test_an_offer_before_the_acknowledgement_only_refreshes_the_token() -> None:
    unacknowledged = {"work": work(), "sandbox": CREATING}
    assert _step(unacknowledged, {"offer": offer()}) is Step.REFRESH_TOKEN


def test_an_offer_after_the_acknowledgement_supersedes_a_claim_that_nobody_serves() -> None:
    assert _step(STARTING, {"offer": offer(1)}) is Step.CLAIM


def test_the_superseding_claim_waits_until_its_class_is_known() -> None:
    undecided = {"offer": offer(1), "choice": Choice(undecided=True)}
    assert _step(STARTING, undecided) is Step.LEARN_SESSION


def test_an_offer_in_flight_during_the_acknowledgement_supersedes_nothing() -> None:
    assert (
        _step(SERVING, {"offer": offer(60), "run": run(heartbeat=True), "connected": True}) is not Step.CLAIM
    )


def test_an_offer_in_flight_refreshes_the_token_until_the_worker_has_started() -> None:
    assert _step(STARTING, {"offer": offer(60), "connected": True}) is Step.REFRESH_TOKEN
    assert _step(STARTING, {"offer": offer(60), "run": run(), "connected": True}) is Step.REFRESH_TOKEN
    begun = {"offer": offer(60), "run": run(heartbeat=True), "connected": True}
    assert _step(STARTING, begun) is Step.DROP_OFFER


def test_a_claim_has_its_sandbox_provisioned_then_acknowledged_then_its_worker_started() -> None:
    claimed = {"work": work(), "sandbox": CREATING}
    assert _step(claimed, {}) is Step.PROVISION
    assert _step({"work": work(), "sandbox": RUNNING}, {"connected": True}) is Step.ACKNOWLEDGE
    assert _step(STARTING, {"connected": True}) is Step.START_WORKER


def test_an_acknowledged_claim_whose_sandbox_is_not_connected_is_connected_before_the_start() -> None:
    assert _step(STARTING, {"connected": False}) is Step.PROVISION


def test_the_first_heartbeat_is_recorded_once() -> None:
    known = {"connected": True, "run": run(heartbeat=True)}
    assert _step(STARTING, known) is Step.RECORD_HEARTBEAT
    cut_off = {"connected": False, "run": run(heartbeat=True, cut="reset")}
    assert _step(STARTING, cut_off) is Step.RECORD_HEARTBEAT
    decision = decide(session(SERVING), observation(**known))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.RUNNING)


def test_a_started_worker_without_a_heartbeat_is_waited_for() -> None:
    decision = decide(session(STARTING), observation(connected=True, run=run(), extend_at=ago(-200)))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.STARTING_WORKER)
    assert decision.again_after is not None


def test_a_worker_whose_first_heartbeat_is_overdue_is_ended() -> None:
    known = {"connected": True, "run": run(), "start_overdue_at": ago(1)}
    assert _step(STARTING, known) is Step.STOP_WORKER


@pytest.mark.parametrize(
    "known", [None, run(cut="reset"), run(refused=Refusal(RefusalCode.STALE_EPOCH, "no"))]
)
def test_a_worker_with_a_heartbeat_but_no_listener_is_reattached_and_never_restarted(known: Any) -> None:
    assert _step(SERVING, {"connected": True, "run": known}) is Step.REATTACH
    assert _step(SERVING, {"connected": False, "run": known}) is Step.REATTACH


def test_the_countdown_of_a_running_sandbox_is_extended_when_due() -> None:
    known = {"connected": True, "run": run(heartbeat=True)}
    assert _step(SERVING, {**known, "extend_at": ago(0)}) is Step.EXTEND
    decision = decide(session(SERVING), observation(**known, extend_at=ago(-120)))
    assert decision.again_after == pytest.approx(120)


@pytest.mark.parametrize("status", [STARTING, SERVING])
def test_the_exit_of_a_worker_is_finished(status: dict[str, Any]) -> None:
    assert _step(status, {"connected": True, "run": run(record=record())}) is Step.FINISH


def test_a_finished_session_stays_idle_and_needs_nothing() -> None:
    done = {"work": work(acknowledged=50, heartbeat=40, finished=5, reason="Idle"), "sandbox": PAUSED}
    decision = decide(session(done), observation())
    assert (decision.step, decision.reason, decision.again_after) == (Step.WAIT, Reason.IDLE, None)


def test_a_lease_left_by_a_worker_is_awaited_until_it_lapses() -> None:
    died = work(acknowledged=50, heartbeat=40, finished=5, reason="Killed")
    decision = decide(session({"work": died, "sandbox": PAUSED}), observation())
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.AWAITING_LEASE)
    assert decision.again_after == pytest.approx(LEASE_SECONDS - 5)
    lapsed = work(acknowledged=500, heartbeat=400, finished=LEASE_SECONDS + 1, reason="Killed")
    assert decide(session({"work": lapsed, "sandbox": PAUSED}), observation()).reason is Reason.IDLE


@pytest.mark.parametrize(
    ("exit_reason", "reason"),
    [
        ("StartFailed", Reason.WORKER_START_FAILED),
        ("NoSessionToken", Reason.NO_SESSION_TOKEN),
        ("TokenLost", Reason.WORK_LOST),
    ],
)
def test_an_abandoned_claim_keeps_its_reason(exit_reason: str, reason: Reason) -> None:
    status = {"work": work(acknowledged=50, finished=5, reason=exit_reason), "sandbox": PAUSED}
    assert decide(session(status), observation()).reason is reason


def test_a_sandbox_that_nothing_needs_is_paused() -> None:
    assert _step({"sandbox": RUNNING}, {}) is Step.PAUSE
    assert _step({"sandbox": PAUSED}, {"connected": True}) is Step.PAUSE
    assert _step({"sandbox": PAUSED}, {"running_unexpectedly": True}) is Step.PAUSE


@pytest.mark.parametrize("known", [{"connected": True}, {"running_unexpectedly": True}])
def test_a_running_sandbox_of_a_session_that_is_not_served_is_paused(known: dict[str, Any]) -> None:
    """A person, or a late call of an earlier leader, may have resumed it."""
    assert _step({"sandbox": PAUSED}, known, SUSPENDED) is Step.SUSPEND
    assert _step({"sandbox": PAUSED, "endedAt": ago(5)}, known) is Step.SUSPEND


def test_an_unneeded_create_is_checked() -> None:
    assert _step({"sandbox": CREATING}, {}) is Step.RESOLVE_CREATE


def test_a_sandbox_that_a_resync_missed_is_checked_even_during_a_turn() -> None:
    assert _step({"sandbox": PAUSED}, {"missing": True}) is Step.RECORD_VANISHED
    known = {"missing": True, "connected": True, "run": run(heartbeat=True)}
    assert _step(SERVING, known) is Step.RECORD_VANISHED


@pytest.mark.parametrize("known", [{}, {"offer": offer()}])
def test_a_wiped_status_is_restored_before_any_other_decision(known: dict[str, object]) -> None:
    assert _step(None, {"wiped": True, **known}) is Step.RESTORE


def test_after_a_loss_the_policy_decides_between_a_new_sandbox_and_none() -> None:
    lost = {"lastEvent": announced_run(), "sandbox": LOST}
    assert _step(lost, {}) is Step.PROVISION
    decision = decide(session(lost), observation(policy=policy(on_sandbox_lost=OnSandboxLost.FAIL)))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.SANDBOX_VANISHED)


def test_a_suspended_session_is_stopped_and_not_served_until_resumed() -> None:
    known = {"connected": True, "run": run(heartbeat=True)}
    assert _step(SERVING, known, SUSPENDED) is Step.SUSPEND
    decision = decide(
        session({"sandbox": PAUSED, "lastEvent": announced_run()}, **SUSPENDED),
        observation(offer=offer(), message_known=True),
    )
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.SUSPENDED)


@pytest.mark.parametrize("type_", sorted(END_TYPES))
def test_an_end_reported_by_an_event_is_confirmed_once(type_: str) -> None:
    ended = {"lastEvent": announced_run(1, type_), "sandbox": PAUSED}
    assert _step(ended, {}) is Step.CONFIRM_END
    checked = {"recovery": {"checkedEndEvent": announced_run(1, type_)["id"]}}
    assert _step(ended | checked, {}) is Step.WAIT
    assert _step({"sandbox": PAUSED}, {"end_check_due": True}) is Step.CONFIRM_END


def test_an_ended_session_is_stopped_kept_for_its_ttl_and_deleted() -> None:
    assert _step({**ENDED, "sandbox": RUNNING}, {"connected": True}) is Step.SUSPEND
    decision = decide(session(ENDED), observation())
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.SESSION_ENDED)
    assert decision.again_after == pytest.approx(3600 - 60.25)
    assert _step(ENDED, {"policy": policy(ttl_seconds_after_end=60)}) is Step.DELETE


def test_a_pending_create_is_checked_before_the_sandbox_is_paused() -> None:
    assert _step({**ENDED, "sandbox": CREATING}, {}) is Step.RESOLVE_CREATE
    assert _step({"sandbox": CREATING}, {}, SUSPENDED) is Step.RESOLVE_CREATE


def test_the_exit_of_a_worker_is_finished_before_newer_work_is_claimed() -> None:
    known = {"connected": True, "run": run(record=record()), "offer": offer(1), "message_known": True}
    assert _step(SERVING, known) is Step.FINISH


def test_a_due_countdown_comes_before_steps_that_may_repeat_for_long() -> None:
    due = {"connected": True, "extend_at": ago(0)}
    assert _step({"work": work(), "sandbox": RUNNING}, due) is Step.EXTEND
    assert _step(STARTING, due) is Step.EXTEND


def test_work_of_an_ended_session_is_removed_from_the_queue() -> None:
    assert _step(ENDED, {"offer": offer(), "message_known": True}) is Step.REJECT_OFFER


def test_an_idle_session_is_deleted_after_its_ttl_and_never_by_default() -> None:
    old = {"lastActiveTime": "2026-11-23T16:58:00Z", "sandbox": PAUSED}
    assert _step(old, {}) is Step.WAIT
    assert _step(old, {"policy": policy(idle_ttl_seconds=60)}) is Step.DELETE
    decision = decide(session(old), observation(policy=policy(idle_ttl_seconds=200)))
    assert decision.again_after == pytest.approx(200 - 120.25)
    assert (
        _step(
            {**SERVING, "lastActiveTime": old["lastActiveTime"]},
            {"policy": policy(idle_ttl_seconds=60), "connected": True, "run": run(heartbeat=True)},
        )
        is Step.WAIT
    )


def test_a_resource_without_any_turn_is_idle_since_its_creation() -> None:
    assert _step(None, {"policy": policy(idle_ttl_seconds=60)}) is Step.DELETE


def test_deletion_comes_first_while_our_finalizer_is_set() -> None:
    deleting = {"deletion_timestamp": "2026-11-23T16:59:59Z"}
    known = {"offer": offer(), "run": run(heartbeat=True), "connected": True, "missing": True}
    gone = session(SERVING, deletionTimestamp=deleting["deletion_timestamp"])
    assert decide(gone, observation(**known)).step is Step.FINALIZE
    released = session(
        SERVING, deletionTimestamp=deleting["deletion_timestamp"], finalizers=["example.com/other"]
    )
    assert decide(released, observation(**known)).step is Step.WAIT


def test_deletion_of_a_foreign_or_duplicate_resource_still_removes_the_finalizer() -> None:
    foreign = session(None, deletionTimestamp="2026-11-23T16:59:59Z", spec={"environmentID": "env_other"})
    assert names.FINALIZER in foreign.metadata.finalizers
    assert decide(foreign, observation(serving_name="older")).step is Step.FINALIZE


def test_the_examples_share_resource_and_time() -> None:
    assert session().metadata.name == NAME
    assert observation().now == NOW


LISTENING: dict[str, Any] = {"run": run(heartbeat=True), "connected": True, "extend_at": NOW + timedelta(300)}


def test_a_sandbox_is_rolled_over_under_its_worker_when_due() -> None:
    assert _step(SERVING, {**LISTENING, "roll_over_at": ago(1)}) is Step.ROLL_OVER
    early = decide(session(SERVING), observation(**LISTENING, roll_over_at=NOW + timedelta(seconds=20)))
    assert (early.step, early.again_after) == (Step.WAIT, 20)


def test_a_worker_without_a_listener_is_reattached_before_a_roll_over() -> None:
    assert _step(SERVING, {**LISTENING, "run": None, "roll_over_at": ago(1)}) is Step.REATTACH


def test_a_worker_that_has_ended_or_not_started_needs_no_roll_over() -> None:
    assert _step(SERVING, {**LISTENING, "run": run(record=record()), "roll_over_at": ago(1)}) is Step.FINISH
    assert _step(STARTING, {**LISTENING, "run": run(), "roll_over_at": ago(1)}) is Step.WAIT


@pytest.mark.parametrize(
    ("state", "beat_seconds_ago", "lives"),
    [
        ("active", 10, True),
        ("active", LEASE_SECONDS + 1, False),
        ("active", None, True),
        ("queued", 10, False),
        ("stopped", 10, False),
        ("stopping", 10, True),
    ],
)
def test_a_frozen_worker_may_continue_while_it_holds_the_item(
    state: str, beat_seconds_ago: float | None, lives: bool
) -> None:
    beat = None if beat_seconds_ago is None else ago(beat_seconds_ago)
    item = WorkItem(SESSION, SESSION, state, created_at=ago(900), latest_heartbeat_at=beat)
    assert lease_lives(item, NOW) is lives


def test_a_session_whose_environment_fails_says_so_and_is_not_provisioned() -> None:
    trouble = {"queue_error": "HTTP 404: Environment not found"}
    waiting = decide(session({"lastEvent": announced_run(), "sandbox": PAUSED}), observation(**trouble))
    assert (waiting.step, waiting.reason) == (Step.WAIT, Reason.ENVIRONMENT_UNAVAILABLE)
    assert _step({"lastEvent": announced_run(), "sandbox": RUNNING}, trouble) is Step.PAUSE
    settled = decide(session({"sandbox": PAUSED}), observation(**trouble))
    assert settled.reason is Reason.IDLE
