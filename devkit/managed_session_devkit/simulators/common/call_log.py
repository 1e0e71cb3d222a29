"""The list of calls that a simulator has answered."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any


class CallLog:
    """The newest `capacity` calls. Each is a dictionary with `operation`, `status` and more."""

    def __init__(self, capacity: int) -> None:
        self.calls: deque[dict[str, Any]] = deque(maxlen=capacity)

    def add(self, call: dict[str, Any]) -> None:
        """Add a call. The caller may complete it later."""
        self.calls.append(call)

    def clear(self) -> None:
        """Forget all calls."""
        self.calls.clear()

    def statuses(self) -> dict[str, Counter[str]]:
        """Count the calls by operation and status; a call without an answer counts as `dropped`."""
        counted: dict[str, Counter[str]] = {}
        for call in self.calls:
            counted.setdefault(call["operation"], Counter())[str(call.get("status", "dropped"))] += 1
        return counted
