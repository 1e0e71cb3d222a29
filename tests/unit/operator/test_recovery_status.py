"""What a turn's end writes about whether the session still waits for somebody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from managed_session_api.events import RUN_STARTED
from managed_session_api.times import to_wire
from managed_session_operator.decisions import has_hint
from managed_session_operator.steps.worker import _recovery

from .examples import NOW, ago, session

CONTEXT: Any = SimpleNamespace(now=lambda: NOW, api_key=SimpleNamespace(possible=True))


def _status(event_seconds_ago: float) -> dict[str, Any]:
    event = {"id": "whe_1", "type": RUN_STARTED, "createdAt": to_wire(ago(event_seconds_ago))}
    return {"lastEvent": event}


def test_a_turn_that_ends_as_it_should_writes_nothing_more() -> None:
    assert _recovery(CONTEXT, session(_status(5)), "Idle", over=True) == {}


@pytest.mark.parametrize("ahead", [1, 300])
def test_an_event_of_a_clock_before_ours_announces_nothing_once_its_turn_is_over(ahead: float) -> None:
    status = _status(-ahead)
    recovery: Any = _recovery(CONTEXT, session(status), "Idle", over=True)
    work = {"claim": "c", "finishedAt": to_wire(NOW), "exitReason": "Idle"}
    assert has_hint(session({**status, "work": work}))
    checked = {"checkedAt": to_wire(recovery["checkedAt"]), "attempts": 0}
    assert not has_hint(session({**status, "work": work, "recovery": checked}))
