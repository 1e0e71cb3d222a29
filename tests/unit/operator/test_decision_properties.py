"""Properties of decisions for every resource and observation."""

from __future__ import annotations

from hypothesis import given
from managed_session_api import names
from managed_session_api.reasons import REASONS
from managed_session_api.resource import ManagedSession
from managed_session_operator.domain import turn_limit
from managed_session_operator.domain.decide import claim_active, decide
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.step import Step

from .examples import ENVIRONMENT, NAME
from .strategies import observations, resources

BEFORE_ANY_EFFECT = {Step.REFUSE, Step.VERIFY_OWNERSHIP, Step.TAKE_OWNERSHIP}
SAY_HOW_IT_STANDS = {Step.WAIT, Step.REFUSE}


@given(resources(), observations)
def test_there_is_always_one_next_step(resource: ManagedSession, observation: Observation) -> None:
    decision = decide(resource, observation)
    assert isinstance(decision.step, Step)
    assert decision == decide(resource, observation)


@given(resources(deleting=False), observations)
def test_a_waiting_session_has_a_documented_reason_and_a_delay(
    resource: ManagedSession, observation: Observation
) -> None:
    decision = decide(resource, observation)
    if decision.step in SAY_HOW_IT_STANDS:
        assert decision.reason in REASONS
        assert decision.again_after is None or decision.again_after > 0


@given(resources(), observations)
def test_work_is_acknowledged_only_with_a_connected_sandbox(
    resource: ManagedSession, observation: Observation
) -> None:
    if decide(resource, observation).step is Step.ACKNOWLEDGE:
        assert observation.connected
        assert claim_active(resource)
        assert resource.status.work.acknowledged_at is None


@given(resources(), observations)
def test_a_worker_is_started_only_for_acknowledged_work_without_a_heartbeat(
    resource: ManagedSession, observation: Observation
) -> None:
    if decide(resource, observation).step is Step.START_WORKER:
        work = resource.status.work
        assert claim_active(resource)
        assert work.acknowledged_at is not None
        assert work.first_heartbeat_at is None
        assert observation.connected
        assert observation.run is None or not observation.run.live


@given(resources(), observations)
def test_only_deleted_resources_with_our_finalizer_are_finalized(
    resource: ManagedSession, observation: Observation
) -> None:
    if decide(resource, observation).step is Step.FINALIZE:
        assert resource.metadata.deletion_timestamp is not None
        assert names.FINALIZER in resource.metadata.finalizers


@given(resources(deleting=True), observations)
def test_a_deleted_resource_is_only_finalized(resource: ManagedSession, observation: Observation) -> None:
    held = names.FINALIZER in resource.metadata.finalizers
    assert decide(resource, observation).step is (Step.FINALIZE if held else Step.WAIT)


@given(resources(deleting=False), observations)
def test_nothing_outside_changes_before_the_session_is_verified_and_has_our_finalizer(
    resource: ManagedSession, observation: Observation
) -> None:
    proven = resource.spec.environment_id == ENVIRONMENT and names.FINALIZER in resource.metadata.finalizers
    serves = observation.serving_name in (None, NAME)
    step = decide(resource, observation).step
    if proven and serves:
        assert step not in BEFORE_ANY_EFFECT
    else:
        assert step in BEFORE_ANY_EFFECT


@given(resources(proven=True, deleting=False), observations)
def test_a_suspended_session_gets_no_sandbox_no_worker_and_no_claim(
    resource: ManagedSession, observation: Observation
) -> None:
    if resource.spec.lifecycle.suspend:
        step = decide(resource, observation).step
        assert step not in {Step.PROVISION, Step.CLAIM, Step.ACKNOWLEDGE, Step.START_WORKER, Step.EXTEND}


@given(resources(proven=True, deleting=False), observations)
def test_an_ended_session_gets_no_sandbox_no_worker_and_no_claim(
    resource: ManagedSession, observation: Observation
) -> None:
    if resource.status.ended_at is not None:
        step = decide(resource, observation).step
        assert step not in {Step.PROVISION, Step.CLAIM, Step.ACKNOWLEDGE, Step.START_WORKER, Step.EXTEND}


@given(resources(), observations)
def test_a_sandbox_is_provisioned_only_for_a_claim_or_a_live_announced_run(
    resource: ManagedSession, observation: Observation
) -> None:
    if decide(resource, observation).step is Step.PROVISION:
        assert claim_active(resource) or (
            resource.status.last_event is not None and not observation.announced_run_expired
        )


@given(resources(), observations)
def test_a_sandbox_is_never_paused_under_a_claim(resource: ManagedSession, observation: Observation) -> None:
    if decide(resource, observation).step is Step.PAUSE:
        assert not claim_active(resource)
        held_back = observation.budget_spent or observation.choice.tied or turn_limit.was_too_long(resource)
        assert observation.offer is None or held_back


@given(resources(proven=True, deleting=False), observations)
def test_a_session_that_is_held_back_is_not_begun(resource: ManagedSession, observation: Observation) -> None:
    tied = observation.choice.tied or observation.choice.undecided
    if not claim_active(resource) and (tied or observation.budget_spent or turn_limit.was_too_long(resource)):
        step = decide(resource, observation).step
        assert step not in {Step.PROVISION, Step.CLAIM, Step.ACKNOWLEDGE, Step.START_WORKER}


@given(resources(proven=True, deleting=False), observations)
def test_no_worker_starts_under_older_network_rules(
    resource: ManagedSession, observation: Observation
) -> None:
    if observation.network_due:
        assert decide(resource, observation).step is not Step.START_WORKER


@given(resources(), observations)
def test_a_turn_is_checked_only_if_it_runs_or_was_too_long(
    resource: ManagedSession, observation: Observation
) -> None:
    if decide(resource, observation).step is Step.CHECK_TURN:
        assert claim_active(resource) or turn_limit.was_too_long(resource)


@given(resources(), observations)
def test_steps_about_offers_need_an_offer(resource: ManagedSession, observation: Observation) -> None:
    step = decide(resource, observation).step
    if step in {
        Step.CLAIM,
        Step.REFRESH_TOKEN,
        Step.TAKE_OWNERSHIP,
        Step.AWAIT_MESSAGE,
        Step.RELEASE_UNUSED,
        Step.REJECT_OFFER,
    }:
        assert observation.offer is not None


@given(resources(), observations)
def test_a_turn_is_finished_only_with_an_exit_record(
    resource: ManagedSession, observation: Observation
) -> None:
    if decide(resource, observation).step is Step.FINISH:
        assert observation.run is not None
        assert observation.run.record is not None
        assert claim_active(resource)
