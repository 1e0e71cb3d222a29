"""What holds for every resource in whatever surroundings."""

from __future__ import annotations

from hypothesis import given
from managed_session_api import names
from managed_session_api.conditions import REASONS
from managed_session_api.resource import ManagedSession
from managed_session_operator.decisions import Step, Surroundings, claim_active, decide

from .examples import ENVIRONMENT, NAME
from .strategies import resources, surroundings

BEFORE_ANY_EFFECT = {Step.REFUSE, Step.PROVE, Step.ADOPT}
SAY_HOW_IT_STANDS = {Step.WAIT, Step.REFUSE}


@given(resources(), surroundings)
def test_there_is_always_one_next_step(resource: ManagedSession, around: Surroundings) -> None:
    decision = decide(resource, around)
    assert isinstance(decision.step, Step)
    assert decision == decide(resource, around)


@given(resources(deleting=False), surroundings)
def test_who_waits_says_why_in_documented_words_and_does_not_come_back_at_once(
    resource: ManagedSession, around: Surroundings
) -> None:
    decision = decide(resource, around)
    if decision.step in SAY_HOW_IT_STANDS:
        assert decision.reason in REASONS
        assert decision.again_after is None or decision.again_after > 0


@given(resources(), surroundings)
def test_work_is_acknowledged_only_with_a_sandbox_at_hand(
    resource: ManagedSession, around: Surroundings
) -> None:
    if decide(resource, around).step is Step.ACKNOWLEDGE:
        assert around.connected
        assert claim_active(resource)
        assert resource.status.work.acknowledged_at is None


@given(resources(), surroundings)
def test_a_worker_is_started_only_for_acknowledged_work_that_has_not_heartbeated(
    resource: ManagedSession, around: Surroundings
) -> None:
    if decide(resource, around).step is Step.START_WORKER:
        work = resource.status.work
        assert claim_active(resource)
        assert work.acknowledged_at is not None
        assert work.first_heartbeat_at is None
        assert around.connected
        assert around.run is None or not around.run.live


@given(resources(), surroundings)
def test_nothing_is_finalized_unless_it_is_being_deleted_and_held_by_us(
    resource: ManagedSession, around: Surroundings
) -> None:
    if decide(resource, around).step is Step.FINALIZE:
        assert resource.metadata.deletion_timestamp is not None
        assert names.FINALIZER in resource.metadata.finalizers


@given(resources(deleting=True), surroundings)
def test_nothing_but_finalizing_happens_to_what_is_being_deleted(
    resource: ManagedSession, around: Surroundings
) -> None:
    held = names.FINALIZER in resource.metadata.finalizers
    assert decide(resource, around).step is (Step.FINALIZE if held else Step.WAIT)


@given(resources(deleting=False), surroundings)
def test_nothing_outside_is_touched_before_the_session_is_proven_ours_and_held(
    resource: ManagedSession, around: Surroundings
) -> None:
    proven = resource.spec.environment_id == ENVIRONMENT and names.FINALIZER in resource.metadata.finalizers
    serves = around.serving_name in (None, NAME)
    step = decide(resource, around).step
    if proven and serves:
        assert step not in BEFORE_ANY_EFFECT
    else:
        assert step in BEFORE_ANY_EFFECT


@given(resources(proven=True, deleting=False), surroundings)
def test_a_suspended_session_gets_no_sandbox_no_worker_and_no_claim(
    resource: ManagedSession, around: Surroundings
) -> None:
    if resource.spec.lifecycle.suspend:
        step = decide(resource, around).step
        assert step not in {Step.PROVISION, Step.CLAIM, Step.ACKNOWLEDGE, Step.START_WORKER, Step.EXTEND}


@given(resources(proven=True, deleting=False), surroundings)
def test_an_ended_session_gets_no_sandbox_no_worker_and_no_claim(
    resource: ManagedSession, around: Surroundings
) -> None:
    if resource.status.ended_at is not None:
        step = decide(resource, around).step
        assert step not in {Step.PROVISION, Step.CLAIM, Step.ACKNOWLEDGE, Step.START_WORKER, Step.EXTEND}


@given(resources(), surroundings)
def test_a_sandbox_is_provisioned_only_for_a_claim_or_a_live_hint(
    resource: ManagedSession, around: Surroundings
) -> None:
    if decide(resource, around).step is Step.PROVISION:
        assert claim_active(resource) or (resource.status.last_event is not None and not around.hint_expired)


@given(resources(), surroundings)
def test_a_sandbox_is_never_paused_under_a_claim(resource: ManagedSession, around: Surroundings) -> None:
    if decide(resource, around).step is Step.PAUSE:
        assert not claim_active(resource)
        assert around.offer is None


@given(resources(), surroundings)
def test_offers_are_dealt_with_only_where_there_are_any(
    resource: ManagedSession, around: Surroundings
) -> None:
    step = decide(resource, around).step
    if step in {
        Step.CLAIM,
        Step.REFRESH_TOKEN,
        Step.ADOPT,
        Step.AWAIT_MESSAGE,
        Step.RELEASE_UNUSED,
        Step.REJECT_OFFER,
    }:
        assert around.offer is not None


@given(resources(), surroundings)
def test_an_exit_is_finished_only_where_a_record_says_that_the_worker_has_ended(
    resource: ManagedSession, around: Surroundings
) -> None:
    if decide(resource, around).step is Step.FINISH:
        assert around.run is not None
        assert around.run.record is not None
        assert claim_active(resource)
