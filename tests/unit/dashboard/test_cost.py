"""What the page says of costs."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_dashboard.cost import cost_of


@pytest.mark.parametrize(
    ("status", "cost"),
    [
        ({}, {}),
        (
            {"cost": {"activeSeconds": 0, "sandboxSeconds": 7}},
            {"total": 0, "activeSeconds": 0, "sandboxSeconds": 7},
        ),
        (
            {"cost": {"listCost": "126", "sandboxCost": "0.399", "budget": "500", "currency": "EUR"}},
            {"total": 1.26399, "list": 1.26, "sandbox": 0.00399, "budget": 5, "currency": "EUR"},
        ),
    ],
)
def test_cost_is_in_units_of_its_currency(status: Any, cost: dict[str, Any]) -> None:
    expected = {"currency": "USD", **cost} if cost else {}
    assert cost_of({"status": status}) == pytest.approx(expected)
