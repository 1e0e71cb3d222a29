"""What chaos and the users did, with the time of each."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One thing that was done.

    Attributes:
        at: seconds since the epoch.
        who: `chaos` or `user`.
        what: the fault's kind, or what the user did.
        session_id: whose; empty where it concerns all.
        detail: for people.
    """

    at: float
    who: str
    what: str
    session_id: str
    detail: str

    @property
    def told(self) -> str:
        """In one line."""
        return " ".join(each for each in (self.what, self.session_id, self.detail) if each)


@dataclass
class Trace:
    """All that was done, in order."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, who: str, what: str, session_id: str = "", detail: str = "") -> None:
        """Write down something that has just been done."""
        self.entries.append(Entry(time.time(), who, what, session_id, detail))

    def counts(self, who: str) -> Counter[str]:
        """How often each thing was done."""
        return Counter(entry.what for entry in self.entries if entry.who == who)


@dataclass
class Deletions:
    """Resources that chaos deleted, and their sandboxes with them."""

    _times: dict[str, list[float]] = field(default_factory=dict)

    def note(self, session_id: str) -> None:
        """A session's sandbox is being deleted at this moment."""
        self._times.setdefault(session_id, []).append(time.time())

    def of(self, session_id: str, since: float = 0.0) -> bool:
        """Whether the session's sandbox was deleted after a moment (seconds since the epoch)."""
        return any(at >= since for at in self._times.get(session_id, []))
