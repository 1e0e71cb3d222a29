"""How the smoke test recognizes its steps, when it stops waiting, and how it explains a failure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_api.resource import ManagedSession
from managed_session_cli.smoke_steps import (
    Step,
    TurnProgress,
    evidence,
    explanation,
    filled_in,
    health,
    should_stop_waiting,
)


def event(kind: str, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(type=kind, **fields)


def says(text: str) -> SimpleNamespace:
    return event("agent.message", content=[SimpleNamespace(type="text", text=text)])


def idle(reason: str) -> SimpleNamespace:
    return event("session.status_idle", stop_reason=SimpleNamespace(type=reason))


def resource(reason: str = "Idle", ready: str = "True", **status: Any) -> ManagedSession:
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": reason,
        "message": "details",
        "lastTransitionTime": "2026-11-25T11:00:00Z",
    }
    return ManagedSession.model_validate(
        {
            "metadata": {"name": "sesn-1"},
            "spec": {"sessionID": "sesn_1"},
            "status": {"conditions": [condition], **status},
        }
    )


SERVED = resource(turns=1, sandbox={"id": "isandbox", "state": "Paused"})
TURN = [
    event("agent.tool_use", name="bash"),
    idle("requires_action"),
    event("user.tool_result"),
    says("webhook-smoke-ok"),
    idle("end_turn"),
]


def test_every_step_of_a_healthy_turn_is_seen() -> None:
    seen = TurnProgress(TURN, 0, SERVED)
    assert all(evidence(step, seen) for step in Step)


def test_nothing_is_seen_before_it_begins() -> None:
    assert not any(evidence(step, TurnProgress()) for step in Step)


@pytest.mark.parametrize(
    ("step", "events"),
    [(Step.TOOL, TURN[:2]), (Step.ANSWER, [*TURN[:3], says("no")]), (Step.IDLE, TURN[:4])],
)
def test_step_is_not_seen_too_early(step: Step, events: list[Any]) -> None:
    assert evidence(step, TurnProgress(events, 0, SERVED)) is None


def test_paused_sandbox_of_the_previous_turn_does_not_count() -> None:
    seen = TurnProgress(TURN, 1, SERVED)
    assert evidence(Step.PAUSED, seen) is None
    assert evidence(Step.HEARTBEAT, seen) is None


def test_waiting_stops_at_a_lasting_problem_that_needs_a_person() -> None:
    stuck = TurnProgress(resource=resource("TemplateNotFound", "False"))
    assert not should_stop_waiting(stuck, 1)
    assert should_stop_waiting(stuck, 60)
    assert not should_stop_waiting(TurnProgress(resource=resource("AwaitingCapacity", "False")), 60)
    assert should_stop_waiting(TurnProgress([event("session.status_terminated")]), 0)


def test_failed_step_is_explained_by_the_resource_and_by_a_command() -> None:
    lines = explanation(Step.SANDBOX, TurnProgress(resource=resource("TemplateNotFound", "False")))
    assert "TemplateNotFound: details" in lines[0]
    assert "managed-sessions template build" in lines[1]
    for step in Step:
        assert any("managed-sessions" in line for line in explanation(step, TurnProgress()))


def test_explanation_names_session_and_namespace_and_leaves_settings_alone() -> None:
    def explained(step: Step) -> str:
        return "\n".join(filled_in(line, "sesn_1", "ours") for line in explanation(step, TurnProgress()))

    assert "--namespace=ours " in explained(Step.RESOURCE)
    assert "MANAGED_SESSIONS_MAX_IDLE_SECONDS" in explained(Step.PAUSED)
    assert "managed-sessions doctor sesn_1" in explained(Step.PAUSED)


@pytest.mark.parametrize(
    ("status", "text", "healthy"),
    [
        (200, '{"ok": true}', True),
        (200, "<html>", False),
        (403, "", None),
        (404, "", False),
        (503, "", None),
        (500, "", False),
    ],
)
def test_webhook_that_cannot_be_checked_is_not_unhealthy(
    status: int, text: str, healthy: bool | None
) -> None:
    assert health(status, text)[0] is healthy
