"""Decides when an orphaned sandbox is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Orphans:
    """The sandboxes that resyncs have found without a resource, and since when.

    A sandbox is killed only after two resyncs in a row have found it, because a create may be on its way. If
    this leader has seen its resource, the resource was deleted by force, and the kill follows at once. If
    not, the resource may still be restored from a backup, so a grace period passes first.

    Args:
        grace: the grace period in seconds.
        clock: monotonic clock in seconds.
    """

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace = grace
        self._clock = clock
        self._since: dict[str, float] = {}
        self._known_owner_gone: set[str] = set()
        self._identities: set[str] = set()

    def given_up(self, found: Mapping[str, str], identities: set[str], *, whole: bool = True) -> set[str]:
        """Note what a resync has found. Return the IDs of the sandboxes to kill.

        Args:
            found: the identities that the orphaned sandboxes carry, by sandbox ID.
            identities: the identities of all resources.
            whole: whether the list was read to its end. If not, a sandbox that was found before and is not in
                the list may just not have been read.
        """
        now = self._clock()
        seen = self._identities | identities
        kept = set() if whole else self._since.keys() - found.keys()
        known_owner_gone = {
            each for each, identity in found.items() if each in self._known_owner_gone or identity in seen
        }
        self._known_owner_gone = known_owner_gone | (self._known_owner_gone & kept)
        to_kill = {
            each
            for each in found.keys() & self._since
            if each in self._known_owner_gone or now - self._since[each] >= self._grace
        }
        self._since = {each: self._since.get(each, now) for each in found.keys() | kept}
        self._identities = identities
        return to_kill
