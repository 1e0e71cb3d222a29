"""What a session has used, and the budget at which it stops.

Source: the SDK's types `BetaManagedAgentsSessionUsage`, `BetaManagedAgentsSessionUsageEvent` and
`BetaManagedAgentsBudgetLimit`, and the vendor's page on session budgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.common.times import now


def amount(cents: float) -> dict[str, str]:
    """Return an amount as the API writes it: whole cents, as text."""
    return {"amount": str(round(cents)), "currency": "USD"}


def budget_of(given: Any) -> int | None:
    """Return the cents of a budget in a request; None for none. Raises APIError 400."""
    if given is None:
        return None
    limit = given.get("max_list_cost") if isinstance(given, dict) and given.get("type") == "limit" else None
    text = limit.get("amount") if isinstance(limit, dict) else None
    if not isinstance(text, str) or not text.isdecimal() or text.startswith("0"):
        raise APIError(400, "budget.max_list_cost.amount: must be a positive whole number of cents, as text")
    if limit is None or limit.get("currency") != "USD":
        raise APIError(400, "budget.max_list_cost.currency: must be USD")
    return int(text)


@dataclass
class Usage:
    """The cost of a session's requests and runtime so far.

    Attributes:
        cents: its exact list cost.
        budget: cents at which the agent stops before its next request; None without a budget.
        paused: whether the budget has stopped the agent.
    """

    cents: float = 0
    budget: int | None = None
    paused: bool = False
    _active_seconds: float = 0
    _running_since: datetime | None = None

    @property
    def active_seconds(self) -> float:
        """For how long the session was running."""
        since = self._running_since
        return self._active_seconds + ((now() - since).total_seconds() if since is not None else 0)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and self.cents >= self.budget

    def runs(self) -> None:
        """Count the time from now on."""
        self._running_since = self._running_since or now()

    def rests(self) -> None:
        """Count no time until the session runs again."""
        self._active_seconds, self._running_since = self.active_seconds, None

    def change_budget(self, given: Any) -> None:
        """Replace or remove the budget. Raises APIError 400 as the API does."""
        if self.budget is None:
            raise APIError(400, "budget_create_only: a budget cannot be added to an existing session")
        wanted = budget_of(given)
        if wanted is not None and wanted <= self.cents:
            raise APIError(400, "budget_not_raised: max_list_cost must be above the consumed list cost")
        self.budget = wanted

    def budget_json(self) -> dict[str, Any] | None:
        """Return the budget in JSON form."""
        if self.budget is None:
            return None
        return {"type": "limit", "max_list_cost": amount(self.budget)}

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form of `usage`."""
        return {
            "input_tokens": 0,
            "output_tokens": 0,
            "cache_read_input_tokens": 0,
            "active_seconds": round(self.active_seconds, 3),
            "list_cost": amount(self.cents),
        }
