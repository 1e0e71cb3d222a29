"""Status patches: small, repeatable, and with correct transition times."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.resource import ManagedSession
from managed_session_operator.domain.conditions import (
    MAX_MESSAGE,
    ConditionUpdate,
    not_ready,
    ready,
    workspace_lost,
)
from managed_session_operator.domain.status_patch import status_patch

from ...support.merge_patch import merge_patch
from .examples import NOW, PAUSED, RUNNING, ago, body, session, work

WHOLE_SECOND = NOW.replace(microsecond=0)
LATER = NOW + timedelta(hours=1)
conditions = st.builds(
    ConditionUpdate,
    st.sampled_from(list(ConditionType)),
    st.sampled_from(list(ConditionStatus)),
    st.sampled_from([Reason.IDLE, Reason.RUNNING, Reason.SANDBOX_VANISHED]),
    st.sampled_from(["", "why", "y" * (MAX_MESSAGE + 10)]),
)
changes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(list(Phase)),
        "conditions": st.lists(conditions, max_size=4, unique_by=lambda update: update.type),
        "sandbox": st.fixed_dictionaries(
            {},
            optional={
                "id": st.sampled_from([None, "isandbox", "iother"]),
                "state": st.sampled_from([None, "Running", "Paused"]),
                "attempt": st.integers(1, 3),
                "startedAt": st.sampled_from([None, NOW, ago(7), WHOLE_SECOND]),
            },
        ),
        "work": st.fixed_dictionaries(
            {}, optional={"finishedAt": st.sampled_from([None, NOW]), "attempts": st.integers(0, 3)}
        ),
        "turns": st.integers(0, 3),
        "endedAt": st.sampled_from([None, NOW]),
        "lastActiveTime": st.just(ago(3)),
    },
)
starts = st.sampled_from(
    [session(), session({"sandbox": PAUSED, "turns": 1}), session({"sandbox": RUNNING, "work": work()})]
)


def _after(resource: ManagedSession, patch: dict[str, Any]) -> ManagedSession:
    return session(merge_patch(resource.status.to_json(), patch))


@given(starts, changes)
def test_a_repeated_update_writes_nothing(start: ManagedSession, change: dict[str, Any]) -> None:
    written = _after(start, status_patch(start, NOW, **change))
    assert status_patch(written, LATER, **change) == {}


@given(starts, changes)
def test_a_change_takes_effect_on_any_status(start: ManagedSession, change: dict[str, Any]) -> None:
    status = _after(start, status_patch(start, NOW, **change)).status
    if "phase" in change:
        assert status.phase == change["phase"]
    if "turns" in change:
        assert status.turns == change["turns"]
    for update in change.get("conditions", []):
        condition = status.condition(update.type)
        assert condition is not None
        assert (condition.status, condition.reason) == (update.status, update.reason)
        assert condition.message == update.message[:MAX_MESSAGE]
    if "state" in change.get("sandbox", {}):
        assert status.sandbox.state == change["sandbox"]["state"]
    if "finishedAt" in change.get("work", {}):
        assert status.work.finished_at == change["work"]["finishedAt"]
    if "endedAt" in change:
        assert status.ended_at == change["endedAt"]


@given(starts, conditions, conditions)
def test_the_transition_time_changes_only_with_the_status(
    start: ManagedSession, first: ConditionUpdate, second: ConditionUpdate
) -> None:
    second = ConditionUpdate(first.type, second.status, second.reason, second.message)
    before = _after(start, status_patch(start, NOW, conditions=[first]))
    after = _after(before, status_patch(before, LATER, conditions=[second]))
    condition = after.status.condition(first.type)
    assert condition is not None
    expected: datetime = LATER if first.status != second.status else NOW
    assert condition.last_transition_time == expected


def test_conditions_that_a_step_does_not_update_stay() -> None:
    before = _after(session(), status_patch(session(), NOW, conditions=[workspace_lost("gone")]))
    after = _after(before, status_patch(before, LATER, conditions=[ready(Reason.IDLE)]))
    lost = after.status.condition(ConditionType.WORKSPACE_LOST)
    assert lost is not None
    assert lost.status is ConditionStatus.TRUE
    assert lost.last_transition_time == NOW


def test_a_value_inside_a_field_can_be_cleared() -> None:
    running = session({"sandbox": RUNNING})
    patch = status_patch(running, NOW, sandbox={"id": None, "state": "Lost"})
    assert patch["sandbox"] == {"id": None, "state": "Lost"}
    assert _after(running, patch).status.sandbox.id is None


def test_clearing_a_missing_field_writes_nothing() -> None:
    assert status_patch(session({"sandbox": PAUSED}), NOW, work={"finishedAt": None}) == {}


def test_an_empty_update_writes_nothing_even_for_a_new_generation() -> None:
    assert status_patch(session(generation=7), NOW) == {}


def test_conditions_name_their_generation() -> None:
    patch = status_patch(session(generation=7), NOW, conditions=[not_ready(Reason.SUSPENDED)])
    assert patch["observedGeneration"] == 7
    assert patch["conditions"][0]["observedGeneration"] == 7


def test_the_webhooks_field_is_never_part_of_a_patch() -> None:
    noted = ManagedSession.model_validate(
        body(
            status={"lastEvent": {"id": "e", "type": "session.deleted", "createdAt": "2026-01-01T00:00:00Z"}}
        )
    )
    patch = status_patch(noted, NOW, phase=Phase.IDLE, conditions=[ready(Reason.IDLE)], turns=2)
    assert "lastEvent" not in patch
