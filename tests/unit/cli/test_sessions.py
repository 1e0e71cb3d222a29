"""When the command line may pause a sandbox, and the remedy of a reason."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.resource import ManagedSession
from managed_session_cli.logs import describe_newest_worker
from managed_session_cli.sessions import at_work, remedy

DONE = {"claim": "c1", "firstHeartbeatAt": "2026-11-25T11:58:00Z", "finishedAt": "2026-11-25T11:59:00Z"}
ACTS = {"claim": "c1", "firstHeartbeatAt": "2026-11-25T11:58:00Z"}


def session(state: str, **work: Any) -> ManagedSession:
    return ManagedSession.model_validate(
        {
            "metadata": {"name": "sesn-1"},
            "spec": {"sessionID": "sesn_1"},
            "status": {"sandbox": {"id": "isandbox", "state": state}, "work": work, "turns": 3},
        }
    )


@pytest.mark.parametrize(
    ("state", "work", "busy"),
    [
        ("Paused", DONE, False),
        ("Paused", {}, False),
        ("Paused", {"claim": "c2"}, True),  # claimed, and not started yet
        ("Running", DONE, True),  # the operator has resumed it
        ("Running", ACTS, True),
    ],
)
def test_sandbox_with_work_is_left_to_the_operator(state: str, work: dict[str, Any], busy: bool) -> None:
    assert at_work(session(state, **work)) is busy


def test_newest_worker_of_a_paused_sandbox_is_described() -> None:
    text = "\n".join(describe_newest_worker(session("Paused", **DONE, exitReason="Idle")))
    assert "Turns        3 served" in text
    assert "ended 2026-11-25 11:59:00 UTC: Idle" in text


def test_remedies_are_the_documented_ones() -> None:
    assert "managed-sessions template build" in remedy("TemplateNotFound")
    assert remedy("SomethingNewer") == ""
