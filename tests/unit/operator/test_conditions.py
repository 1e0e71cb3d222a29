"""The phase and the conditions for a reason."""

from __future__ import annotations

import pytest
from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.resource import SandboxState
from managed_session_operator.domain.conditions import conditions_of, phase_of

STATES = [None, *SandboxState]


def _statuses(reason: Reason, state: SandboxState | None) -> dict[ConditionType, ConditionStatus]:
    return {update.type: update.status for update in conditions_of(reason, "", state)}


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("state", STATES)
def test_every_reason_gives_a_phase_and_one_update_per_condition(
    reason: Reason, state: SandboxState | None
) -> None:
    types = [update.type for update in conditions_of(reason, "why", state)]
    assert sorted(types) == [ConditionType.READY, ConditionType.SANDBOX_READY, ConditionType.WORKER_RUNNING]
    assert phase_of(reason) in Phase


def test_an_idle_session_is_ready_because_its_next_message_would_be_served() -> None:
    assert _statuses(Reason.IDLE, SandboxState.PAUSED) == {
        ConditionType.READY: ConditionStatus.TRUE,
        ConditionType.SANDBOX_READY: ConditionStatus.TRUE,
        ConditionType.WORKER_RUNNING: ConditionStatus.FALSE,
    }


def test_only_a_running_session_has_a_running_worker() -> None:
    for reason in Reason:
        worker = _statuses(reason, SandboxState.RUNNING)[ConditionType.WORKER_RUNNING]
        assert (worker is ConditionStatus.TRUE) == (reason in (Reason.RUNNING, Reason.AWAITING_USER))


@pytest.mark.parametrize("state", [None, SandboxState.CREATING, SandboxState.LOST])
def test_a_missing_sandbox_is_not_ready(state: SandboxState | None) -> None:
    assert _statuses(Reason.IDLE, state)[ConditionType.SANDBOX_READY] is ConditionStatus.FALSE


@pytest.mark.parametrize(
    "reason",
    [
        Reason.SUSPENDED,
        Reason.SESSION_ENDED,
        Reason.DUPLICATE_SESSION,
        Reason.ENVIRONMENT_MISMATCH,
        Reason.AWAITING_LEASE,
        Reason.AWAITING_CAPACITY,
        Reason.WORKER_START_FAILED,
        Reason.SANDBOX_VANISHED,
    ],
)
def test_a_session_whose_next_message_would_not_be_served_now_is_not_ready(reason: Reason) -> None:
    assert _statuses(reason, SandboxState.PAUSED)[ConditionType.READY] is ConditionStatus.FALSE
