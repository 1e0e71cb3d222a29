"""What is done next, state by state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.events import END_TYPES
from managed_session_api.resource import OnSandboxLost
from managed_session_operator.decisions import LEASE_SECONDS, Step, decide, lease_lives
from managed_session_operator.work_list import WorkItem

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
    around,
    hint,
    offer,
    policy,
    record,
    run,
    session,
    work,
)

TERMINATED = "session.status_terminated"
UNPROVEN: dict[str, Any] = {"finalizers": []}
ENDED = {"endedAt": "2026-11-23T16:59:00Z", "sandbox": PAUSED}
SUSPENDED = {"spec": {"lifecycle": {"suspend": True}}}
STARTING = {"work": work(acknowledged=5), "sandbox": RUNNING}
SERVING = {"work": work(acknowledged=50, heartbeat=40), "sandbox": RUNNING}


def _step(status: dict[str, Any] | None, known: dict[str, Any], more: dict[str, Any] | None = None) -> Step:
    return decide(session(status, **(more or {})), around(**known)).step


def test_a_session_that_was_never_proven_is_asked_about_first() -> None:
    hinted = {"lastEvent": hint()}
    assert _step(hinted, {}, UNPROVEN) is Step.PROVE
    assert _step(hinted, {}, {"spec": {"environmentID": None}}) is Step.PROVE


def test_offered_work_is_proof_that_the_session_is_ours() -> None:
    assert _step(None, {"offer": offer()}, UNPROVEN) is Step.ADOPT


def test_a_resource_of_another_environment_is_refused_and_says_whose_it_is() -> None:
    foreign = session(SERVING, spec={"environmentID": "env_other"})
    decision = decide(foreign, around(offer=offer(), run=run(record=record())))
    assert (decision.step, decision.reason) == (Step.REFUSE, Reason.ENVIRONMENT_MISMATCH)
    assert "env_other" in decision.message
    assert ENVIRONMENT in decision.message


def test_a_younger_resource_of_the_same_session_is_refused_and_names_the_one_that_serves() -> None:
    decision = decide(session({"lastEvent": hint()}), around(serving_name="older", offer=offer()))
    assert (decision.step, decision.reason) == (Step.REFUSE, Reason.DUPLICATE_SESSION)
    assert "older" in decision.message


def test_a_proven_hint_is_provisioned_before_its_work_is_offered() -> None:
    assert _step({"lastEvent": hint()}, {}) is Step.PROVISION
    assert _step({"lastEvent": hint(), "sandbox": PAUSED}, {}) is Step.PROVISION


def test_a_provisioned_hint_waits_for_its_work_no_longer_than_the_attach_timeout() -> None:
    decision = decide(session({"lastEvent": hint(), "sandbox": RUNNING}), around(connected=True))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.AWAITING_CLAIM)
    assert decision.again_after is not None
    assert decision.again_after <= 60


def test_a_hint_without_work_gives_its_sandbox_up() -> None:
    known = {"hint_expired": True, "connected": True}
    assert _step({"lastEvent": hint(100), "sandbox": RUNNING}, known) is Step.PAUSE
    assert _step({"lastEvent": hint(100), "sandbox": CREATING}, {"hint_expired": True}) is Step.RESOLVE_CREATE


def test_a_hint_whose_place_claimed_work_needs_gives_its_sandbox_up() -> None:
    assert _step({"lastEvent": hint(), "sandbox": RUNNING}, {"hint_displaced": True, "connected": True}) is (
        Step.PAUSE
    )


def test_a_session_whose_work_is_left_in_the_queue_says_so_and_is_not_put_away() -> None:
    assert _step({"sandbox": PAUSED}, {"queued": True}) is Step.AWAIT_PLACE
    assert _step({"sandbox": RUNNING}, {"queued": True, "connected": True}) is Step.PAUSE
    forgotten = {"queued": True, "policy": policy(idle_ttl_seconds=1)}
    assert _step({"sandbox": PAUSED}, forgotten) is Step.AWAIT_PLACE


def test_a_run_that_a_finished_turn_has_answered_is_no_hint_any_more() -> None:
    done = {"work": work(acknowledged=50, heartbeat=40, finished=5, reason="Idle"), "sandbox": PAUSED}
    assert _step({**done, "lastEvent": hint(20)}, {}) is Step.WAIT
    assert _step({**done, "lastEvent": hint(1)}, {}) is Step.PROVISION


def test_an_offer_is_claimed_as_soon_as_a_message_is_known() -> None:
    assert _step(None, {"offer": offer(), "message_known": True}) is Step.CLAIM
    assert _step({"lastEvent": hint()}, {"offer": offer()}) is Step.CLAIM


def test_an_offer_of_a_session_without_a_message_waits_and_is_then_released() -> None:
    assert _step(None, {"offer": offer(1)}) is Step.AWAIT_MESSAGE
    assert _step(None, {"offer": offer(61)}) is Step.RELEASE_UNUSED


def test_an_offer_before_the_acknowledgement_only_refreshes_the_token() -> None:
    unacknowledged = {"work": work(), "sandbox": CREATING}
    assert _step(unacknowledged, {"offer": offer()}) is Step.REFRESH_TOKEN


def test_an_offer_after_the_acknowledgement_supersedes_a_claim_that_nobody_serves() -> None:
    assert _step(STARTING, {"offer": offer(1)}) is Step.CLAIM


def test_an_offer_that_was_under_way_during_the_acknowledgement_supersedes_nothing() -> None:
    assert (
        _step(SERVING, {"offer": offer(60), "run": run(heartbeat=True), "connected": True}) is not Step.CLAIM
    )


def test_a_claim_has_its_sandbox_provisioned_then_acknowledged_then_its_worker_started() -> None:
    claimed = {"work": work(), "sandbox": CREATING}
    assert _step(claimed, {}) is Step.PROVISION
    assert _step({"work": work(), "sandbox": RUNNING}, {"connected": True}) is Step.ACKNOWLEDGE
    assert _step(STARTING, {"connected": True}) is Step.START_WORKER


def test_an_acknowledged_claim_whose_sandbox_is_not_connected_is_connected_before_the_start() -> None:
    assert _step(STARTING, {"connected": False}) is Step.PROVISION


def test_the_first_heartbeat_is_written_down_once() -> None:
    known = {"connected": True, "run": run(heartbeat=True)}
    assert _step(STARTING, known) is Step.RECORD_HEARTBEAT
    decision = decide(session(SERVING), around(**known))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.RUNNING)


def test_a_started_worker_without_a_heartbeat_is_waited_for() -> None:
    decision = decide(session(STARTING), around(connected=True, run=run(), extend_at=ago(-200)))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.STARTING_WORKER)
    assert decision.again_after is not None


def test_a_worker_that_is_overdue_with_its_first_heartbeat_is_ended() -> None:
    known = {"connected": True, "run": run(), "start_overdue_at": ago(1)}
    assert _step(STARTING, known) is Step.STOP_WORKER


@pytest.mark.parametrize("known", [None, run(cut="reset"), run(refused="StaleEpoch")])
def test_a_heartbeated_worker_that_nobody_listens_to_is_taken_up_and_never_started_again(known: Any) -> None:
    assert _step(SERVING, {"connected": True, "run": known}) is Step.REATTACH
    assert _step(SERVING, {"connected": False, "run": known}) is Step.REATTACH


def test_the_countdown_of_a_running_sandbox_is_restarted_when_due_and_looked_at_before() -> None:
    known = {"connected": True, "run": run(heartbeat=True)}
    assert _step(SERVING, {**known, "extend_at": ago(0)}) is Step.EXTEND
    decision = decide(session(SERVING), around(**known, extend_at=ago(-120)))
    assert decision.again_after == pytest.approx(120)


@pytest.mark.parametrize("status", [STARTING, SERVING])
def test_the_exit_of_a_worker_is_finished(status: dict[str, Any]) -> None:
    assert _step(status, {"connected": True, "run": run(record=record())}) is Step.FINISH


def test_a_finished_session_rests_and_costs_nothing() -> None:
    done = {"work": work(acknowledged=50, heartbeat=40, finished=5, reason="Idle"), "sandbox": PAUSED}
    decision = decide(session(done), around())
    assert (decision.step, decision.reason, decision.again_after) == (Step.WAIT, Reason.IDLE, None)


def test_a_worker_that_left_its_lease_behind_is_waited_for_until_that_lapses() -> None:
    died = work(acknowledged=50, heartbeat=40, finished=5, reason="Killed")
    decision = decide(session({"work": died, "sandbox": PAUSED}), around())
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.AWAITING_LEASE)
    assert decision.again_after == pytest.approx(LEASE_SECONDS - 5)
    lapsed = work(acknowledged=500, heartbeat=400, finished=LEASE_SECONDS + 1, reason="Killed")
    assert decide(session({"work": lapsed, "sandbox": PAUSED}), around()).reason is Reason.IDLE


@pytest.mark.parametrize(
    ("exit_reason", "reason"),
    [
        ("StartFailed", Reason.WORKER_START_FAILED),
        ("NoSessionToken", Reason.NO_SESSION_TOKEN),
        ("TokenLost", Reason.WORK_LOST),
    ],
)
def test_a_claim_that_was_given_up_keeps_saying_why(exit_reason: str, reason: Reason) -> None:
    status = {"work": work(acknowledged=50, finished=5, reason=exit_reason), "sandbox": PAUSED}
    assert decide(session(status), around()).reason is reason


def test_a_sandbox_that_nothing_needs_is_paused() -> None:
    assert _step({"sandbox": RUNNING}, {}) is Step.PAUSE
    assert _step({"sandbox": PAUSED}, {"connected": True}) is Step.PAUSE
    assert _step({"sandbox": PAUSED}, {"running_unexpectedly": True}) is Step.PAUSE


def test_a_create_that_nothing_needs_any_more_is_looked_into() -> None:
    assert _step({"sandbox": CREATING}, {}) is Step.RESOLVE_CREATE


def test_a_sandbox_that_a_sweep_missed_is_looked_into_even_during_a_turn() -> None:
    assert _step({"sandbox": PAUSED}, {"missing": True}) is Step.NOTE_VANISHED
    known = {"missing": True, "connected": True, "run": run(heartbeat=True)}
    assert _step(SERVING, known) is Step.NOTE_VANISHED


@pytest.mark.parametrize("known", [{}, {"offer": offer()}])
def test_a_wiped_status_is_restored_before_anything_is_decided_on_it(known: dict[str, object]) -> None:
    assert _step(None, {"wiped": True, **known}) is Step.RESTORE


def test_after_a_loss_the_policy_decides_between_a_new_sandbox_and_none() -> None:
    lost = {"lastEvent": hint(), "sandbox": LOST}
    assert _step(lost, {}) is Step.PROVISION
    decision = decide(session(lost), around(policy=policy(on_sandbox_lost=OnSandboxLost.FAIL)))
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.SANDBOX_VANISHED)


def test_suspension_stops_what_runs_and_serves_nothing_until_it_is_lifted() -> None:
    known = {"connected": True, "run": run(heartbeat=True)}
    assert _step(SERVING, known, SUSPENDED) is Step.SUSPEND
    decision = decide(
        session({"sandbox": PAUSED, "lastEvent": hint()}, **SUSPENDED),
        around(offer=offer(), message_known=True),
    )
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.SUSPENDED)


@pytest.mark.parametrize("type_", sorted(END_TYPES))
def test_an_end_that_an_event_tells_is_confirmed_once(type_: str) -> None:
    told = {"lastEvent": hint(1, type_), "sandbox": PAUSED}
    assert _step(told, {}) is Step.CONFIRM_END
    assert _step(told, {"end_checked": hint(1, type_)["id"]}) is Step.WAIT
    assert _step({"sandbox": PAUSED}, {"end_check_due": True}) is Step.CONFIRM_END


def test_an_ended_session_is_stopped_kept_for_its_time_and_deleted() -> None:
    assert _step({**ENDED, "sandbox": RUNNING}, {"connected": True}) is Step.SUSPEND
    decision = decide(session(ENDED), around())
    assert (decision.step, decision.reason) == (Step.WAIT, Reason.SESSION_ENDED)
    assert decision.again_after == pytest.approx(3600 - 60.25)
    assert _step(ENDED, {"policy": policy(ttl_seconds_after_end=60)}) is Step.DELETE


def test_a_create_under_way_is_looked_into_before_a_session_is_put_away() -> None:
    assert _step({**ENDED, "sandbox": CREATING}, {}) is Step.RESOLVE_CREATE
    assert _step({"sandbox": CREATING}, {}, SUSPENDED) is Step.RESOLVE_CREATE


def test_the_exit_of_a_worker_is_finished_before_newer_work_is_claimed() -> None:
    known = {"connected": True, "run": run(record=record()), "offer": offer(1), "message_known": True}
    assert _step(SERVING, known) is Step.FINISH


def test_a_due_countdown_goes_before_steps_that_may_have_to_be_repeated_for_long() -> None:
    due = {"connected": True, "extend_at": ago(0)}
    assert _step({"work": work(), "sandbox": RUNNING}, due) is Step.EXTEND
    assert _step(STARTING, due) is Step.EXTEND


def test_work_of_an_ended_session_is_taken_off_the_queue() -> None:
    assert _step(ENDED, {"offer": offer(), "message_known": True}) is Step.REJECT_OFFER


def test_an_idle_session_is_deleted_after_its_time_and_never_by_default() -> None:
    old = {"lastActiveTime": "2026-11-23T16:58:00Z", "sandbox": PAUSED}
    assert _step(old, {}) is Step.WAIT
    assert _step(old, {"policy": policy(idle_ttl_seconds=60)}) is Step.DELETE
    decision = decide(session(old), around(policy=policy(idle_ttl_seconds=200)))
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


def test_deletion_goes_before_everything_while_we_hold_the_resource() -> None:
    deleting = {"deletion_timestamp": "2026-11-23T16:59:59Z"}
    known = {"offer": offer(), "run": run(heartbeat=True), "connected": True, "missing": True}
    gone = session(SERVING, deletionTimestamp=deleting["deletion_timestamp"])
    assert decide(gone, around(**known)).step is Step.FINALIZE
    released = session(
        SERVING, deletionTimestamp=deleting["deletion_timestamp"], finalizers=["example.com/other"]
    )
    assert decide(released, around(**known)).step is Step.WAIT


def test_deletion_of_a_foreign_or_duplicate_resource_still_lets_it_go() -> None:
    foreign = session(None, deletionTimestamp="2026-11-23T16:59:59Z", spec={"environmentID": "env_other"})
    assert names.FINALIZER in foreign.metadata.finalizers
    assert decide(foreign, around(serving_name="older")).step is Step.FINALIZE


def test_the_examples_are_about_one_resource() -> None:
    assert session().metadata.name == NAME
    assert around().now == NOW


LISTENING: dict[str, Any] = {"run": run(heartbeat=True), "connected": True, "extend_at": NOW + timedelta(300)}


def test_a_sandbox_is_rolled_over_under_its_worker_when_its_time_has_come() -> None:
    assert _step(SERVING, {**LISTENING, "roll_over_at": ago(1)}) is Step.ROLL_OVER
    early = decide(session(SERVING), around(**LISTENING, roll_over_at=NOW + timedelta(seconds=20)))
    assert (early.step, early.again_after) == (Step.WAIT, 20)


def test_a_worker_that_nobody_listens_to_is_taken_up_again_before_a_roll_over() -> None:
    assert _step(SERVING, {**LISTENING, "run": None, "roll_over_at": ago(1)}) is Step.REATTACH


def test_a_worker_that_has_ended_or_not_begun_needs_no_roll_over() -> None:
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
def test_a_frozen_worker_may_go_on_while_the_item_is_its_own_and_the_lease_lives(
    state: str, beat_seconds_ago: float | None, lives: bool
) -> None:
    beat = None if beat_seconds_ago is None else ago(beat_seconds_ago)
    item = WorkItem(SESSION, SESSION, state, created_at=ago(900), latest_heartbeat_at=beat)
    assert lease_lives(item, NOW) is lives


def test_a_session_whose_environment_serves_nobody_says_so_and_is_not_provisioned() -> None:
    trouble = {"queue_trouble": "HTTP 404: Environment not found"}
    waiting = decide(session({"lastEvent": hint(), "sandbox": PAUSED}), around(**trouble))
    assert (waiting.step, waiting.reason) == (Step.WAIT, Reason.ENVIRONMENT_UNAVAILABLE)
    assert _step({"lastEvent": hint(), "sandbox": RUNNING}, trouble) is Step.PAUSE
    settled = decide(session({"sandbox": PAUSED}), around(**trouble))
    assert settled.reason is Reason.IDLE
