"""Decides for sessions that their class, or a tie between classes, keeps from being served. Pure."""

from __future__ import annotations

from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.domain import turn_limit
from managed_session_operator.domain.conditions import MAX_MESSAGE
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.step import Decision, Step

_NETWORK_BEFORE = frozenset({Step.PREPARE, Step.ACKNOWLEDGE, Step.START_WORKER, Step.WAIT})
"""Steps before which a running sandbox gets the network rules that its policy has now."""


def held_back(
    resource: ManagedSession, observation: Observation, *, runs: bool, announced: bool
) -> Decision | None:
    """Return the next step for a session without a claim that must not be served now; None if it may be.

    Args:
        resource: the session.
        observation: what is known about it.
        runs: whether its sandbox runs.
        announced: whether a run is announced whose work is still awaited.
    """
    decision = _turn(resource, observation) or _class(resource, observation, announced=announced)
    if decision is None or decision.step is not Step.WAIT:
        return decision
    if resource.status.sandbox.state is SandboxState.CREATING:
        return Decision(Step.RESOLVE_CREATE)
    return Decision(Step.PAUSE) if runs else decision


def _turn(resource: ManagedSession, observation: Observation) -> Decision | None:
    """Decide for a session whose worker was ended because of its turn's length."""
    if not turn_limit.was_too_long(resource):
        return None
    if observation.turn_check_due or observation.offer is not None or observation.turn_limit is None:
        return Decision(Step.CHECK_TURN)
    ready = resource.status.condition(ConditionType.READY)
    known = ready is not None and ready.reason == Reason.TURN_TOO_LONG
    message = ready.message if known and ready is not None else ""
    return Decision(
        Step.WAIT,
        Reason.TURN_TOO_LONG,
        message or turn_limit.message(observation.turn_limit, can_interrupt=False),
    )


def _class(resource: ManagedSession, observation: Observation, *, announced: bool) -> Decision | None:
    """Decide for a session that has work, or had some when it was held back."""
    choice, spent = observation.choice, observation.budget_spent
    if not (choice.tied or choice.undecided or spent):
        return None
    ready = resource.status.condition(ConditionType.READY)
    reported = ready.reason if ready is not None else None
    has_work = observation.offer is not None or announced or observation.queued
    if choice.undecided and (has_work or reported == Reason.AMBIGUOUS_CLASS):
        return Decision(Step.LEARN_SESSION)
    if choice.tied and (has_work or reported == Reason.AMBIGUOUS_CLASS):
        return Decision(Step.WAIT, Reason.AMBIGUOUS_CLASS, choice.message)
    said = ready is not None and reported == Reason.BUDGET_REACHED and ready.message == spent[:MAX_MESSAGE]
    if spent and (has_work or said):
        return Decision(Step.WAIT, Reason.BUDGET_REACHED, spent, observation.budget_again_after)
    return None


def policy_first(resource: ManagedSession, observation: Observation, decision: Decision) -> Decision:
    """Return what to do about the policy before `decision`, or else `decision`."""
    if resource.status.ended_at is not None:
        return decision
    if observation.network_due and observation.connected and decision.step in _NETWORK_BEFORE:
        return Decision(Step.UPDATE_NETWORK)
    told = decision.step is Step.WAIT and decision.reason is not Reason.AMBIGUOUS_CLASS
    return Decision(Step.RECORD_POLICY) if told and observation.policy_due else decision
