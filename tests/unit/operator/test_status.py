"""Status patches: small, repeatable, and honest about transitions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.resource import ManagedSession
from managed_session_operator.status import (
    MAX_MESSAGE,
    Verdict,
    not_ready,
    ready,
    status_patch,
    workspace_lost,
)

from .examples import NOW, PAUSED, RUNNING, ago, body, session, work

WHOLE_SECOND = NOW.replace(microsecond=0)
LATER = NOW + timedelta(hours=1)
verdicts = st.builds(
    Verdict,
    st.sampled_from(list(ConditionType)),
    st.sampled_from(list(ConditionStatus)),
    st.sampled_from([Reason.IDLE, Reason.RUNNING, Reason.SANDBOX_VANISHED]),
    st.sampled_from(["", "why", "y" * (MAX_MESSAGE + 10)]),
)
wishes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(list(Phase)),
        "verdicts": st.lists(verdicts, max_size=4, unique_by=lambda verdict: verdict.type),
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


def _merge(current: Any, patch: Any) -> Any:
    """RFC 7396, as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _after(resource: ManagedSession, patch: dict[str, Any]) -> ManagedSession:
    return session(_merge(resource.status.to_json(), patch))


@given(starts, wishes)
def test_what_was_written_once_is_not_written_again(start: ManagedSession, wish: dict[str, Any]) -> None:
    written = _after(start, status_patch(start, NOW, **wish))
    assert status_patch(written, LATER, **wish) == {}


@given(starts, wishes)
def test_a_wish_comes_true_whatever_was_there(start: ManagedSession, wish: dict[str, Any]) -> None:
    status = _after(start, status_patch(start, NOW, **wish)).status
    if "phase" in wish:
        assert status.phase == wish["phase"]
    if "turns" in wish:
        assert status.turns == wish["turns"]
    for verdict in wish.get("verdicts", []):
        condition = status.condition(verdict.type)
        assert condition is not None
        assert (condition.status, condition.reason) == (verdict.status, verdict.reason)
        assert condition.message == verdict.message[:MAX_MESSAGE]
    if "state" in wish.get("sandbox", {}):
        assert status.sandbox.state == wish["sandbox"]["state"]
    if "finishedAt" in wish.get("work", {}):
        assert status.work.finished_at == wish["work"]["finishedAt"]
    if "endedAt" in wish:
        assert status.ended_at == wish["endedAt"]


@given(starts, verdicts, verdicts)
def test_the_transition_time_moves_with_the_status_alone(
    start: ManagedSession, first: Verdict, second: Verdict
) -> None:
    second = Verdict(first.type, second.status, second.reason, second.message)
    before = _after(start, status_patch(start, NOW, verdicts=[first]))
    after = _after(before, status_patch(before, LATER, verdicts=[second]))
    condition = after.status.condition(first.type)
    assert condition is not None
    expected: datetime = LATER if first.status != second.status else NOW
    assert condition.last_transition_time == expected


def test_conditions_that_a_step_does_not_speak_of_stay() -> None:
    before = _after(session(), status_patch(session(), NOW, verdicts=[workspace_lost("gone")]))
    after = _after(before, status_patch(before, LATER, verdicts=[ready(Reason.IDLE)]))
    lost = after.status.condition(ConditionType.WORKSPACE_LOST)
    assert lost is not None
    assert lost.status is ConditionStatus.TRUE
    assert lost.last_transition_time == NOW


def test_a_value_inside_a_field_can_be_cleared() -> None:
    running = session({"sandbox": RUNNING})
    patch = status_patch(running, NOW, sandbox={"id": None, "state": "Lost"})
    assert patch["sandbox"] == {"id": None, "state": "Lost"}
    assert _after(running, patch).status.sandbox.id is None


def test_clearing_what_is_not_there_writes_nothing() -> None:
    assert status_patch(session({"sandbox": PAUSED}), NOW, work={"finishedAt": None}) == {}


def test_nothing_to_say_is_no_write_even_for_a_changed_generation() -> None:
    assert status_patch(session(generation=7), NOW) == {}


def test_conditions_say_which_generation_they_are_about() -> None:
    patch = status_patch(session(generation=7), NOW, verdicts=[not_ready(Reason.SUSPENDED)])
    assert patch["observedGeneration"] == 7
    assert patch["conditions"][0]["observedGeneration"] == 7


def test_the_webhooks_field_is_never_part_of_a_patch() -> None:
    noted = ManagedSession.model_validate(
        body(
            status={"lastEvent": {"id": "e", "type": "session.deleted", "createdAt": "2026-01-01T00:00:00Z"}}
        )
    )
    patch = status_patch(noted, NOW, phase=Phase.IDLE, verdicts=[ready(Reason.IDLE)], turns=2)
    assert "lastEvent" not in patch
