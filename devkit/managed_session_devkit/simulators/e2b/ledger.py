"""Records every call, and counts what happens to sandboxes."""

from collections import Counter
from typing import Any, Final

from managed_session_devkit.simulators.common.call_log import CallLog
from managed_session_devkit.simulators.common.times import timestamp

_KEPT_CALLS: Final = 200_000


class Ledger:
    """Calls in order, and counters, since the start or the last `clear`."""

    def __init__(self) -> None:
        self._log = CallLog(_KEPT_CALLS)
        self._events: Counter[str] = Counter()
        self._peak_concurrent = 0

    def record(self, **fields: Any) -> dict[str, Any]:
        """Add a call. The caller may complete the returned entry later."""
        entry = {"at": timestamp(), **{key: value for key, value in fields.items() if value is not None}}
        self._log.add(entry)
        return entry

    def count(self, event: str) -> None:
        """Count an event of a sandbox."""
        self._events[event] += 1

    def observe_concurrency(self, running: int) -> None:
        """Record how many sandboxes count against the concurrency limit now."""
        self._peak_concurrent = max(self._peak_concurrent, running)

    def clear(self, running: int) -> None:
        """Forget everything. The peak starts at the current number."""
        self._log.clear()
        self._events.clear()
        self._peak_concurrent = running

    def as_json(self, *, operation: str | None, sandbox_id: str | None, running: int) -> dict[str, Any]:
        """Return the calls that match, and the counters of all calls."""
        statuses = self._log.statuses()
        calls = [
            call
            for call in self._log.calls
            if (operation is None or call["operation"] == operation)
            and (sandbox_id is None or call.get("sandboxID") == sandbox_id)
        ]
        return {
            "calls": calls,
            "counters": {
                "operations": {name: counts.total() for name, counts in statuses.items()},
                "statuses": {
                    f"{name}:{status}": count
                    for name, counts in statuses.items()
                    for status, count in counts.items()
                },
                "events": dict(self._events),
                "peakConcurrent": self._peak_concurrent,
                "concurrent": running,
            },
        }
