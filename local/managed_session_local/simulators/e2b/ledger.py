"""What happened: every call, and counters."""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

_KEPT_CALLS: Final = 200_000


def now() -> datetime:
    """The current time, aware, UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """RFC 3339 with microseconds and Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class Ledger:
    """Calls in order and counters since the start or the last clear."""

    calls: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT_CALLS))
    events: Counter[str] = field(default_factory=Counter)
    peak_concurrent: int = 0

    def record(self, **fields: Any) -> dict[str, Any]:
        """Add a call; the returned entry may be completed later."""
        entry = {"at": timestamp(now()), **{key: value for key, value in fields.items() if value is not None}}
        self.calls.append(entry)
        return entry

    def count(self, event: str) -> None:
        """Count something that happened to a sandbox."""
        self.events[event] += 1

    def observe_concurrency(self, running: int) -> None:
        """Note how many sandboxes count against the concurrency limit now."""
        self.peak_concurrent = max(self.peak_concurrent, running)

    def clear(self, running: int) -> None:
        """Forget everything; the peak starts at what runs now."""
        self.calls.clear()
        self.events.clear()
        self.peak_concurrent = running

    def as_json(self, *, operation: str | None, sandbox_id: str | None, running: int) -> dict[str, Any]:
        """Calls (filtered) and counters (of all calls)."""
        operations: Counter[str] = Counter()
        statuses: Counter[str] = Counter()
        for call in self.calls:
            operations[call["operation"]] += 1
            statuses[f"{call['operation']}:{call.get('status', 'dropped')}"] += 1
        calls = [
            call
            for call in self.calls
            if (operation is None or call["operation"] == operation)
            and (sandbox_id is None or call.get("sandboxID") == sandbox_id)
        ]
        return {
            "calls": calls,
            "counters": {
                "operations": dict(operations),
                "statuses": dict(statuses),
                "events": dict(self.events),
                "peakConcurrent": self.peak_concurrent,
                "concurrent": running,
            },
        }
