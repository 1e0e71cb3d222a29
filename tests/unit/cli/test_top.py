"""Which sessions are busy, in what order, and how many slots they use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from managed_session_api.resource import ManagedSession
from managed_session_cli.top import drawn, overview, state_of
from rich.console import Console

NOW = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def session(name: str, reason: str, ready: str = "False", **status: Any) -> ManagedSession:
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": reason,
        "message": "m",
        "lastTransitionTime": ago(50),
    }
    return ManagedSession.model_validate(
        {
            "metadata": {"name": name, "creationTimestamp": ago(500)},
            "spec": {"sessionID": f"sesn_{name}"},
            "status": {"conditions": [condition] if reason else [], **status},
        }
    )


RUNS = {
    "sandbox": {"id": "i1", "state": "Running"},
    "work": {"firstHeartbeatAt": ago(8), "offeredAt": ago(10)},
}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (session("a", "Idle", "True"), "idle"),
        (session("a", "Suspended"), "suspended"),
        (session("a", "SessionEnded"), "ended"),
        (session("a", "Running", "True", **RUNS), "running"),
        (session("a", "AwaitingUser", "True", **RUNS), "running"),
        (session("a", "AwaitingUser", "True", work={"waitPausedAt": ago(1)}), "waiting"),
        (session("a", "AwaitingCapacity"), "waiting"),
        (session("a", "SessionStuck"), "failed"),
        (session("a", "TemplateNotFound", phase="Failed"), "failed"),
        (session("a", ""), "waiting"),
    ],
)
def test_each_session_has_one_state(found: ManagedSession, state: str) -> None:
    assert state_of(found) == state


def test_problems_come_first_and_then_the_longest_waits() -> None:
    now = overview(
        [
            session("rests", "Idle", "True"),
            session("runs", "Running", "True", **RUNS),
            session("short", "AwaitingCapacity", work={"offeredAt": ago(5)}),
            session("long", "AwaitingCapacity", work={"offeredAt": ago(90)}),
            session("stuck", "SessionStuck"),
            session("shares", "Running", "True", **RUNS),
        ],
        20,
        NOW,
    )
    assert [each.name for each in now.busy] == ["stuck", "long", "short", "runs", "shares"]
    assert now.slots_used == 1, "sessions that share a sandbox use one slot"
    assert now.counts == {"idle": 1, "running": 2, "waiting": 2, "failed": 1}
    waited = {each.name: each.waited for each in now.busy}
    assert (waited["long"], waited["runs"], waited["stuck"]) == (90, 2, None)


def test_what_does_not_fit_is_counted() -> None:
    now = overview([session(f"s{each}", "AwaitingCapacity") for each in range(30)], None, NOW)
    console = Console(width=120, record=True, file=None)
    with console.capture() as shown:
        console.print(drawn(now, height=15))
    assert "… and 20 more" in shown.get()
    assert "slots used: 0\n" in shown.get()
    assert len(shown.get().splitlines()) <= 15
