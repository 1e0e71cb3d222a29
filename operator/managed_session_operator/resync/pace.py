"""Decides how much of a large installation one resync works on, so that its cost grows with what changed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Set as AbstractSet

from managed_session_operator.domain.resource_cache import ResourceCache

ALL_AT_ONCE = 500
"""Up to so many resources, every resync has all of them reconciled."""
_LEAST_PART = 100
_PARTS = 120
"""In how many resyncs at most every resource at rest is reconciled once."""
READ_AT_ONCE = 1000
"""A list of so many entries is read in every resync, one of twice as many in every second, and so on."""
_MOST_SKIPPED = 19
"""How many resyncs in a row at most go without reading a list, however long it is."""


class ListPace:
    """Decides in which resyncs a list is read, by the number of entries that it last had."""

    def __init__(self) -> None:
        self._skips = 0

    def is_due(self) -> bool:
        """Return whether this resync reads the list. Call it once in each resync."""
        self._skips -= 1
        return self._skips < 0

    def note(self, entries: int) -> None:
        """Note that the list was read, and how long it was."""
        self._skips = min(math.ceil(entries / READ_AT_ONCE) - 1, _MOST_SKIPPED)


class ReconcileRound:
    """Chooses the resources that a resync has reconciled.

    Those at rest wait for an event or for a timer of their own. So in a large installation each resync has
    only a part of them reconciled, in turn, in case that an event or a timer was lost.
    """

    def __init__(self) -> None:
        self._left: deque[str] = deque()
        self._basis: object = None

    def choose(self, cache: ResourceCache, concerned: AbstractSet[str], basis: object) -> list[str]:
        """Return the names to reconcile.

        Args:
            cache: all resources.
            concerned: names of resources about which the lists say something.
            basis: what every decision depends on. If it has changed, all resources are chosen.
        """
        changed, self._basis = basis != self._basis, basis
        if changed or len(cache) <= ALL_AT_ONCE:
            self._left.clear()
            return cache.names()
        chosen = dict.fromkeys(each.name for each in cache.in_motion())
        chosen |= dict.fromkeys(sorted(concerned))
        if not self._left:
            self._left.extend(cache.names())
        for _ in range(min(len(self._left), max(_LEAST_PART, len(cache) // _PARTS))):
            chosen[self._left.popleft()] = None
        return [name for name in chosen if cache.has(name)]
