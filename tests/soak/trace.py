"""Records what the chaos and the users did, and when."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One recorded action.

    Attributes:
        at: seconds since the epoch.
        who: `chaos` or `user`.
        what: kind of the fault, or the user's action.
        session_id: session concerned. Empty: all.
        detail: text for people.
    """

    at: float
    who: str
    what: str
    session_id: str
    detail: str

    @property
    def text(self) -> str:
        """The action in one line."""
        return " ".join(each for each in (self.what, self.session_id, self.detail) if each)


@dataclass
class Trace:
    """All recorded actions, in order."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, who: str, what: str, session_id: str = "", detail: str = "") -> None:
        """Record an action that has just happened."""
        self.entries.append(Entry(time.time(), who, what, session_id, detail))

    def counts(self, who: str) -> Counter[str]:
        """Return how often each action happened."""
        return Counter(entry.what for entry in self.entries if entry.who == who)


@dataclass
class Deletions:
    """Resources that the chaos has deleted, with their sandboxes."""

    _times: dict[str, list[float]] = field(default_factory=dict)

    def note(self, session_id: str) -> None:
        """Record that a session's sandbox is being deleted now."""
        self._times.setdefault(session_id, []).append(time.time())

    def of(self, session_id: str, since: float = 0.0) -> bool:
        """Return whether the session's sandbox was deleted after `since` (Unix time)."""
        return any(at >= since for at in self._times.get(session_id, []))
