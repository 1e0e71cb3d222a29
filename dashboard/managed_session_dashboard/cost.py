"""Reads what a session has cost from its resource (`status.cost`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CENTS = 100


def cost_of(resource: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a session has cost; empty if nothing is recorded.

    Amounts are in units of the currency: `total`, `list` (Anthropic's), `sandbox` (the estimate for E2B) and
    `budget`. The last two may be absent. Times are `activeSeconds` and `sandboxSeconds`.
    """
    cost = (resource.get("status") or {}).get("cost")
    if not isinstance(cost, Mapping):
        return {}
    listed, sandbox = _amount(cost.get("listCost")), _amount(cost.get("sandboxCost"))
    found = {
        "total": round((listed or 0) + (sandbox or 0), 6),
        "currency": cost.get("currency") or "USD",
        "list": listed,
        "sandbox": sandbox,
        "budget": _amount(cost.get("budget")),
        "activeSeconds": cost.get("activeSeconds"),
        "sandboxSeconds": cost.get("sandboxSeconds"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _amount(cents: object) -> float | None:
    try:
        return float(str(cents)) / _CENTS
    except ValueError:
        return None
