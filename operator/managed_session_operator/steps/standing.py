"""How a resource stands: the phase and conditions that go with a reason."""

from __future__ import annotations

from managed_session_api.conditions import ConditionStatus, Phase, Reason
from managed_session_api.resource import ManagedSession, SandboxState

from managed_session_operator.context import Context
from managed_session_operator.decisions import Decision
from managed_session_operator.status import Verdict, not_ready, ready, sandbox_ready, worker_running

_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE

_PHASES = {
    Reason.IDLE: Phase.IDLE,
    Reason.RUNNING: Phase.RUNNING,
    Reason.STARTING_WORKER: Phase.PROVISIONING,
    Reason.PROVISIONING: Phase.PROVISIONING,
    Reason.AWAITING_CLAIM: Phase.PROVISIONING,
    Reason.AWAITING_MESSAGE: Phase.PENDING,
    Reason.AWAITING_CAPACITY: Phase.PENDING,
    Reason.AWAITING_LEASE: Phase.IDLE,
    Reason.SUSPENDED: Phase.SUSPENDED,
    Reason.SANDBOX_VANISHED: Phase.FAILED,
    Reason.ENVIRONMENT_MISMATCH: Phase.FAILED,
    Reason.DUPLICATE_SESSION: Phase.FAILED,
    Reason.SESSION_ENDED: Phase.IDLE,
    Reason.WORKER_START_FAILED: Phase.FAILED,
    Reason.NO_SESSION_TOKEN: Phase.FAILED,
    Reason.WORK_STRANDED: Phase.FAILED,
    Reason.SESSION_STUCK: Phase.FAILED,
}
_READY = frozenset({Reason.IDLE, Reason.RUNNING, Reason.AWAITING_MESSAGE})


def phase_of(reason: Reason) -> Phase:
    """The phase that goes with a reason."""
    return _PHASES.get(reason, Phase.PENDING)


def verdicts_of(reason: Reason, message: str, sandbox: SandboxState | None) -> list[Verdict]:
    """All conditions of a resource that stands so, with its sandbox in that state."""
    if reason is Reason.RUNNING:
        worker = worker_running(_TRUE, Reason.RUNNING)
    else:
        worker = worker_running(_FALSE, reason if reason is not Reason.SANDBOX_VANISHED else Reason.IDLE)
    match sandbox:
        case SandboxState.RUNNING:
            place = sandbox_ready(_TRUE, Reason.SANDBOX_RUNNING)
        case SandboxState.PAUSED:
            place = sandbox_ready(_TRUE, Reason.SANDBOX_PAUSED)
        case SandboxState.CREATING:
            place = sandbox_ready(_FALSE, Reason.PROVISIONING)
        case SandboxState.LOST:
            place = sandbox_ready(_FALSE, Reason.SANDBOX_VANISHED)
        case None:
            place = sandbox_ready(_FALSE, Reason.NO_SANDBOX)
    overall = ready(reason, message) if reason in _READY else not_ready(reason, message)
    return [overall, place, worker]


async def stand(context: Context, resource: ManagedSession, decision: Decision) -> float | None:
    """Write down how the resource stands, if that changed."""
    if decision.reason is not None and decision.worth_writing:
        await context.write_status(
            resource,
            phase=phase_of(decision.reason),
            verdicts=verdicts_of(decision.reason, decision.message, resource.status.sandbox.state),
        )
    return decision.again_after
