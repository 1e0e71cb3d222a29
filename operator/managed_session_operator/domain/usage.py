"""Reads what a session has used, from a session or a `session.usage` event of Anthropic. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

EVENT = "session.usage"
"""Type of the event that comes before each idle status, with the session's usage up to then."""

_CURRENCY = re.compile("[A-Z]{3}")
_LONGEST = 18
"""Digits of an amount that a resource takes."""


@dataclass(frozen=True)
class Usage:
    """What a session has used in all its turns. Values that Anthropic does not report are None.

    Attributes:
        list_cost: cents at public list prices.
        budget: cents of list cost at which the session stops; None without a budget.
        currency: currency of both amounts.
        active_seconds: how long the session was running.
    """

    list_cost: int | None = None
    budget: int | None = None
    currency: str = "USD"
    active_seconds: float | None = None

    @property
    def within_budget(self) -> bool:
        """Whether the session may go on: it has no budget, or not used it up. True if that is not known."""
        return self.budget is None or self.list_cost is None or self.list_cost < self.budget


def read_usage(source: Any) -> Usage:
    """Return the usage of a session or an event. The SDK does not check whether its fields make sense."""
    used, limit = getattr(source, "usage", None), getattr(source, "budget", None)
    cost = getattr(used, "list_cost", None)
    seconds = getattr(used, "active_seconds", None)
    currency = getattr(cost, "currency", None)
    return Usage(
        list_cost=_cents(cost),
        budget=_cents(getattr(limit, "max_list_cost", None)),
        currency=currency if isinstance(currency, str) and _CURRENCY.fullmatch(currency) else "USD",
        active_seconds=float(seconds) if isinstance(seconds, int | float) and seconds >= 0 else None,
    )


def _cents(amount: Any) -> int | None:
    text = getattr(amount, "amount", None)
    known = isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= _LONGEST
    return int(text) if known and isinstance(text, str) else None


def newest_usage(events: Iterable[Any]) -> Usage | None:
    """Return the usage in the newest `session.usage` event, from events in the order newest first."""
    return next((read_usage(each) for each in events if getattr(each, "type", None) == EVENT), None)


def later(usage: Usage | None, other: Usage | None) -> Usage | None:
    """Return the one of two reports that is later: nothing in them ever shrinks."""
    if usage is None or other is None:
        return usage or other
    return max(usage, other, key=lambda each: (each.list_cost or 0, each.active_seconds or 0.0))
