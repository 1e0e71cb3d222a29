"""When a sandbox without a resource is to be killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Orphans:
    """Sandboxes that sweeps have found without a resource, and for how long.

    One is given up when two sweeps in a row agree (a create may be on its way). Where this leader has seen
    its resource, that one was removed by force. Where it never has, the resource may be yet to be restored
    from a backup, so a grace period comes on top.

    Args:
        grace: that period, in seconds.
        clock: seconds that pass while the process runs.
    """

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace = grace
        self._clock = clock
        self._since: dict[str, float] = {}
        self._bereaved: set[str] = set()
        self._identities: set[str] = set()

    def given_up(self, found: Mapping[str, str], identities: set[str]) -> set[str]:
        """Note what a sweep has found, and say which of it is to be killed.

        Args:
            found: the sandboxes without a resource: the identity that each carries, by its ID.
            identities: those of all resources that there are.
        """
        now = self._clock()
        seen = self._identities | identities
        self._bereaved = {
            each for each, identity in found.items() if each in self._bereaved or identity in seen
        }
        doomed = {
            each
            for each in found.keys() & self._since
            if each in self._bereaved or now - self._since[each] >= self._grace
        }
        self._since = {each: self._since.get(each, now) for each in found}
        self._identities = identities
        return doomed
