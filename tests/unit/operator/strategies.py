"""Arbitrary resources and observations: consistent enough to exist, otherwise as odd as possible."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from managed_session_api import names
from managed_session_api.events import RECORDED_TYPES
from managed_session_api.resource import ManagedSession, OnSandboxLost, SandboxState
from managed_session_operator.domain.class_choice import Choice
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.worker_run import ExitRecord, Refusal, WorkerRun
from managed_session_worker.protocol import ExitReason, RefusalCode

from .examples import CLAIM, ENVIRONMENT, NAME, NOW, POLICY, SESSION, body, session_class

instants: st.SearchStrategy[datetime] = st.floats(-10_000, 10_000).map(
    lambda seconds: NOW + timedelta(seconds=seconds)
)
maybe_instants = st.none() | instants
# The last one: what another version of the worker may say.
exit_reasons = st.sampled_from([*(reason.value for reason in ExitReason), "SomethingNew"])


def _wire(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


events = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["whe_1", "whe_2"]),
        "type": st.sampled_from(sorted(RECORDED_TYPES)),
        "createdAt": instants.map(_wire),
    }
)
works = st.fixed_dictionaries(
    {
        "id": st.sampled_from([SESSION, None]),
        "claim": st.sampled_from([CLAIM, None]),
        "offeredAt": maybe_instants.map(_wire),
        "acknowledgedAt": maybe_instants.map(_wire),
        "firstHeartbeatAt": maybe_instants.map(_wire),
        "servingLateSince": maybe_instants.map(_wire),
        "awaitingUserSince": maybe_instants.map(_wire),
        "finishedAt": maybe_instants.map(_wire),
        "exitReason": st.none() | exit_reasons,
        "attempts": st.integers(0, 9),
    }
)
sandboxes = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["isandbox", None]),
        "state": st.none() | st.sampled_from([str(state) for state in SandboxState]),
        "attempt": st.integers(0, 9),
    }
)
statuses: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "lastEvent": st.none() | events,
        "work": works,
        "sandbox": sandboxes,
        "turns": st.integers(0, 3),
        "lastActiveTime": maybe_instants.map(_wire),
        "endedAt": maybe_instants.map(_wire),
    }
)


@st.composite
def resources(draw: st.DrawFn, *, proven: bool | None = None, deleting: bool | None = None) -> ManagedSession:
    """Draw a resource. `proven` and `deleting` fix these properties."""
    ours = draw(st.booleans()) if proven is None else proven
    going = draw(st.booleans()) if deleting is None else deleting
    environment = ENVIRONMENT if ours else draw(st.sampled_from([None, ENVIRONMENT, "env_other"]))
    finalizers = [names.FINALIZER] if ours else draw(st.sampled_from([[], [names.FINALIZER], ["other/one"]]))
    return ManagedSession.model_validate(
        body(
            status=draw(statuses),
            spec={"environmentID": environment, "lifecycle": {"suspend": draw(st.booleans())}},
            finalizers=finalizers,
            deletionTimestamp=_wire(draw(instants)) if going else None,
        )
    )


policies = st.fixed_dictionaries(
    {
        "timeout_seconds": st.integers(60, 86_400),
        "max_idle_seconds": st.integers(1, 86_400),
        "attach_timeout_seconds": st.integers(1, 86_400),
        "idle_ttl_seconds": st.integers(0, 31_536_000),
        "ttl_seconds_after_end": st.integers(0, 31_536_000),
        "on_sandbox_lost": st.sampled_from(list(OnSandboxLost)),
    }
).map(lambda values: POLICY.model_copy(update=values))
offers = st.builds(Offer, st.just(SESSION), st.just(SESSION), st.just(ENVIRONMENT), instants)
records = st.builds(
    lambda reason, first: ExitRecord.model_validate(
        {"claim": CLAIM, "reason": reason, "firstHeartbeatAt": first}
    ),
    exit_reasons,
    st.none() | st.just("2026-11-23T16:59:00Z"),
)
runs = st.builds(
    WorkerRun,
    st.just(CLAIM),
    st.just("isandbox"),
    accepted=st.booleans(),
    heartbeat=st.booleans(),
    late=st.booleans(),
    record=st.none() | records,
    refused=st.none() | st.just(Refusal(RefusalCode.STALE_EPOCH, "no")),
    cut=st.none() | st.just("reset"),
    awaiting=st.sampled_from([(), ("user.tool_confirmation for bash (sevt_1)",)]),
)
CHOICES = [Choice(), Choice(session_class()), Choice(tied=("gold", "silver")), Choice(undecided=True)]
observations = st.builds(
    Observation,
    now=st.just(NOW),
    environment_id=st.just(ENVIRONMENT),
    policy=policies,
    offer=st.none() | offers,
    run=st.none() | runs,
    connected=st.booleans(),
    extend_at=maybe_instants,
    roll_over_at=maybe_instants,
    serving_name=st.sampled_from([NAME, NAME, NAME, None, "older"]),
    announced_run_expired=st.booleans(),
    announced_run_displaced=st.booleans(),
    queued=st.booleans(),
    message_known=st.booleans(),
    end_check_due=st.booleans(),
    running_unexpectedly=st.booleans(),
    missing=st.booleans(),
    wiped=st.booleans(),
    queue_error=st.none() | st.just("HTTP 404"),
    start_overdue_at=maybe_instants,
    choice=st.sampled_from(CHOICES),
    policy_due=st.booleans(),
    network_due=st.booleans(),
    turn_check_at=maybe_instants,
    turn_check_due=st.booleans(),
    turn_limit=st.none() | st.just(60),
    budget_spent=st.sampled_from(["", "", "spent"]),
)
