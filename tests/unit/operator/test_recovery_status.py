"""What the end of a turn writes to `status.recovery`."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.events import RUN_STARTED
from managed_session_api.times import to_wire
from managed_session_operator.domain.decide import has_announced_run
from managed_session_operator.domain.turn_end import Ending, plan_turn_end

from .examples import NOW, ago, session


def _recovery(status: dict[str, Any]) -> dict[str, Any]:
    """Return `status.recovery` after the end of a turn."""
    end = plan_turn_end(session(status), Ending("Idle", over=True), NOW, can_interrupt=True)
    written: dict[str, Any] = end.fields["recovery"]
    return written


def _status(event_seconds_ago: float) -> dict[str, Any]:
    event = {"id": "whe_1", "type": RUN_STARTED, "createdAt": to_wire(ago(event_seconds_ago))}
    return {"lastEvent": event}


def test_a_turn_that_ends_cleanly_writes_nothing_more() -> None:
    assert _recovery(_status(5)) == {}


@pytest.mark.parametrize("ahead", [1, 300])
def test_an_event_from_a_fast_clock_announces_nothing_after_its_turn(ahead: float) -> None:
    status = _status(-ahead)
    recovery = _recovery(status)
    work = {"claim": "c", "finishedAt": to_wire(NOW), "exitReason": "Idle"}
    assert has_announced_run(session({**status, "work": work}))
    checked = {"checkedAt": to_wire(recovery["checkedAt"]), "attempts": 0}
    assert not has_announced_run(session({**status, "work": work, "recovery": checked}))
