"""How long a worker waits for a message if its session keeps coming back at once."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from managed_session_operator.domain.idle_patience import idle_seconds, quick_returns

from .examples import CLAIM, NOW, POLICY, ago, session


def work(**more: Any) -> dict[str, Any]:
    return {"work": {"claim": CLAIM, "finishedAt": ago(5), "exitReason": "Idle", **more}}


@pytest.mark.parametrize(
    ("before", "offered_at", "returns"),
    [
        ({}, NOW, 1),
        ({"quickReturns": 3}, NOW, 4),
        ({"quickReturns": 3, "finishedAt": ago(60)}, NOW, 0),
        ({"quickReturns": 3}, ago(6), 4),
        ({"quickReturns": 3, "exitReason": "LeaseLost"}, NOW, 0),
        ({"quickReturns": 3, "finishedAt": None}, NOW, 0),
    ],
)
def test_quick_returns_are_counted_until_a_slow_one(
    before: dict[str, Any], offered_at: datetime, returns: int
) -> None:
    assert quick_returns(session(work(**before)), POLICY, offered_at) == returns


@pytest.mark.parametrize(("returns", "factor"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (10**6, 4)])
def test_the_worker_waits_longer_from_the_second_return_on_within_a_bound(returns: int, factor: int) -> None:
    waits = idle_seconds(session(work(quickReturns=returns)), POLICY)
    assert waits == factor * POLICY.max_idle_seconds
