"""Assigns sandbox slots: how many sandboxes may run at once, which have a slot, and which is next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from managed_session_operator.capacity.allowed_starts import AllowedStarts
from managed_session_operator.capacity.class_shares import (
    DEFAULT_SHARE,
    NO_CLASS,
    ClassShare,
    guarantees_within,
)
from managed_session_operator.capacity.fair_queue import FairQueue, Standing
from managed_session_operator.capacity.held_slots import HeldSlots

_RECHECK_SECONDS = 30.0
"""Resources are woken when it is their turn. This interval is for a missed wake-up."""
_LEAST_WAIT_SECONDS = 0.02


class Capacity:
    """Slots for running sandboxes, and the queue of resources that wait for one. Belongs to one event loop.

    A resource holds a slot from before its sandbox is created or resumed until the sandbox is paused or gone.

    Session classes share the slots. A free slot goes to the class that is below its guarantee, then to the
    class that has the fewest slots for its weight, then to the oldest resource. Slots are not reserved: while
    a class does not need its part, others use it, and it gets the next slots that become free. Sessions
    without a class are the class "".

    E2B may allow fewer sandboxes than the configured limit, or none for a while (`AllowedStarts`).

    Args:
        limit: number of slots.
        prewarm_percent: percentage of the slots that announced runs may hold.
        offers_ahead: number of offers beyond the slots that may be requested while there are classes.
        wake: called with the name of a resource whose turn has come, or whose slot others need.
        scale: multiplies the pauses (`MANAGED_SESSIONS_RETRY_SCALE`).
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        limit: int,
        prewarm_percent: int,
        *,
        offers_ahead: int = 1,
        wake: Callable[[str], None] = lambda _: None,
        scale: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._prewarm_percent = prewarm_percent
        self._wake = wake
        self._starts = AllowedStarts(limit, scale, clock)
        self._offers_ahead = offers_ahead
        self._shares: dict[str, ClassShare] = {}
        self._guarantees: tuple[int, dict[str, int]] = (0, {})
        self._queue = FairQueue(self.standing)
        self._held = HeldSlots()

    @property
    def limit(self) -> int:
        """Configured number of slots."""
        return self._limit

    @property
    def allowed(self) -> int:
        """Number of slots that E2B currently allows, at most the limit."""
        return self._starts.slots

    @property
    def used(self) -> int:
        """Number of slots in use."""
        return len(self._held)

    @property
    def free(self) -> int:
        """Number of allowed slots that are not in use."""
        return max(0, self.allowed - self.used)

    @property
    def waiting(self) -> int:
        """Number of resources that wait for a slot."""
        return len(self._queue)

    @property
    def oldest_wait_since(self) -> datetime | None:
        """Since when the first of all waiting resources has been waiting."""
        return self._queue.oldest

    @property
    def used_by_class(self) -> dict[str, int]:
        """Number of slots in use by each class that has any."""
        return self._held.by_class

    @property
    def waiting_by_class(self) -> dict[str, int]:
        """Number of resources that wait for a slot, of each class that has any."""
        return self._queue.by_class

    @property
    def class_names(self) -> frozenset[str]:
        """Names of the classes that share the slots, and "" for sessions without a class."""
        return frozenset(self._shares) | {NO_CLASS}

    def share_slots(self, shares: Mapping[str, ClassShare]) -> None:
        """Set the classes' shares, by class name. No resource loses its slot.

        A class that is not among them has weight 1, no guarantee and no maximum.
        """
        if dict(shares) == self._shares:
            return
        self._shares = dict(shares)
        self._guarantees = (self.allowed, guarantees_within(self._shares, self.allowed))
        self._wake_next()
        self._wake_displaced()

    def standing(self, class_name: str) -> Standing:
        """Return what the class uses and may use at the moment."""
        share = self._shares.get(class_name, DEFAULT_SHARE)
        if self._guarantees[0] != self.allowed:
            self._guarantees = (self.allowed, guarantees_within(self._shares, self.allowed))
        return Standing(
            used=self._held.of(class_name),
            weight=share.weight,
            guaranteed=self._guarantees[1].get(class_name, 0),
            most=share.max_active_sandboxes,
        )

    def free_for(self, class_name: str) -> int:
        """Return the number of free slots that the class may use."""
        standing = self.standing(class_name)
        return self.free if standing.most is None else min(self.free, max(0, standing.most - standing.used))

    def maximum_reached(self, class_name: str) -> int | None:
        """Return the class's maximum if the class uses that many slots, else None."""
        standing = self.standing(class_name)
        return standing.most if standing.full else None

    def claimable(self, offered: Iterable[str]) -> int:
        """Return how many more items of Anthropic's queue to request now.

        Without classes: as many as could be served now. With classes, more items are requested, because the
        queue returns the oldest first, and the work of another class may be behind them. However many wait,
        at least one more is requested, which also renews the tokens of those that wait.

        The slot of an announced run becomes that of its claim.

        Args:
            offered: resources whose work was offered and is not recorded yet.
        """
        if self._starts.is_closed:
            return 0
        known = self._held.claimed + (
            min(self._queue.claimed_at_most(self._part), self._offers_ahead - 1)
            if self._shares
            else self._queue.claimed
        )
        known += sum(
            1 for name in offered if not self._held.is_claimed(name) and not self._queue.is_claimed(name)
        )
        ahead = self._offers_ahead if self._shares else 0
        return max(0, self.allowed + self._starts.may_probe + ahead - known)

    @property
    def _part(self) -> int:
        """Number of offers that each class may have taken ahead, however many the others have."""
        return max(1, self._offers_ahead // len(self.class_names))

    def leaves_offer(self, name: str) -> bool:
        """Whether to leave the waiting resource's offer to Anthropic's queue, which makes it again later.

        If more offers wait than may be taken ahead, the newest of classes that have more than their part are
        left. So the offers of one class never keep those of another from being requested.
        """
        too_many = self._queue.claimed - self._offers_ahead
        if not self._shares or too_many <= 0 or not self._queue.is_claimed(name):
            return False
        place, waiting = self._queue.place_in_class(name), self._queue.claimed_beside(name)
        return place >= max(self._part, waiting - too_many)

    @property
    def is_rate_limited(self) -> bool:
        """Whether starts are on hold because E2B's rate limit is reached."""
        return self._starts.is_rate_limited

    def holds_for_claim(self, name: str) -> bool:
        """Whether the resource has a slot for claimed work."""
        return self._held.is_claimed(name)

    def holds(self, name: str) -> bool:
        """Whether the resource has a slot."""
        return name in self._held

    def waits(self, name: str) -> bool:
        """Whether the resource is in the wait queue."""
        return name in self._queue

    def hold(self, name: str, class_name: str = NO_CLASS, *, announced_since: datetime | None = None) -> None:
        """Assign a slot to a sandbox that is already running, even beyond the limit or its class's maximum.

        A resource that has a slot keeps the class with which it got it.

        Args:
            name: name of the resource.
            class_name: the session's class, "" for none.
            announced_since: since when its announced run has been waiting; None for claimed work.
        """
        self._queue.leave(name)
        self._held.add(name, class_name, announced_since)

    def ask(self, name: str, since: datetime, *, announced: bool = False, class_name: str = NO_CLASS) -> bool:
        """Assign a slot, or add the resource to the wait queue.

        Args:
            name: name of the resource.
            since: since when its work has been waiting. The oldest of a class is served first.
            announced: whether its work is announced but not claimed. Claimed work is served first.
            class_name: the session's class, "" for none.

        Returns:
            Whether the resource has a slot.
        """
        if self.holds(name):
            if not announced:
                self.hold(name)
            return True
        new, before = not self._queue.is_claimed(name), self._queue.class_of(name)
        self._queue.join(name, since, announced=announced, class_name=class_name)
        has_turn = self._has_turn(name, announced=announced)
        if has_turn:
            self._queue.leave(name)
            self._held.add(name, class_name, since if announced else None)
        elif not announced:
            self._wake_for_claim(new=new)
        if before not in (None, class_name):
            # Its class has changed. Another resource may have the right to the slot for which it was woken.
            self._wake_next()
        return has_turn

    def _has_turn(self, name: str, *, announced: bool) -> bool:
        if self._starts.is_closed:
            return False
        if announced:
            most = self.allowed * self._prewarm_percent // 100
            return name in self._queue.first(most - self.used)
        if name in self._queue.first(self.free):
            return True
        if self.used < self._limit and self._starts.may_probe and self._queue.first(1) == [name]:
            self._starts.probe(name)
            return True
        return False

    def _wake_for_claim(self, *, new: bool) -> None:
        """Wake the resources whose slots claimed work needs, and the one that gives way to a new offer."""
        self._wake_displaced()
        if new and self._shares and self._queue.claimed > self._offers_ahead:
            last = self._queue.last_claimed_of_longest()
            if self.leaves_offer(last):
                self._wake(last)

    def _wake_displaced(self) -> None:
        for name in self._displaced():
            self._wake(name)

    def _displaced(self) -> list[str]:
        """Return the newest resources whose slots for announced runs are needed by claimed work."""
        wanted, displaced = -self.free, []
        for class_name in self._queue.by_class:
            waiting, most = self._queue.claimed_of(class_name), self.standing(class_name).most
            if most is not None:
                waiting = min(waiting, max(0, most - self._held.claimed_of(class_name)))
                over = waiting + self._held.of(class_name) - most
                displaced += self._held.announced(class_name)[-over:] if waiting and over > 0 else []
            wanted += waiting
        others = [name for name in self._held.announced() if name not in displaced]
        more = wanted - len(displaced)
        return displaced + (others[-more:] if more > 0 else [])

    def displaced(self, name: str) -> bool:
        """Whether the resource has to give up the slot of its announced run to waiting claimed work."""
        return self._held.is_announced(name) and name in self._displaced()

    def wait_seconds(self) -> float:
        """Return the seconds after which a waiting resource asks again, unless it is woken."""
        pause = self._starts.pause_seconds
        return max(_LEAST_WAIT_SECONDS, pause) if pause > 0 else _RECHECK_SECONDS

    def started(self, name: str) -> None:
        """Record that E2B started the resource's sandbox."""
        if self._starts.started(name, self.used):
            self._wake_next()

    def refused(
        self,
        name: str,
        since: datetime,
        *,
        announced: bool = False,
        retry_after: float | None = None,
        class_name: str = NO_CLASS,
    ) -> None:
        """Record that E2B allows no more running sandboxes: the resource returns to the wait queue.

        Args:
            name: name of the resource.
            since: since when its work has been waiting.
            announced: whether its work is announced but not claimed.
            retry_after: seconds that E2B asked to wait, if it did.
            class_name: the session's class, "" for none.
        """
        self._held.discard(name)
        self._starts.refused(name, self.used, retry_after)
        self._queue.join(name, since, announced=announced, class_name=class_name)
        self._wake_next()

    def rate_limited(
        self,
        name: str,
        since: datetime,
        *,
        announced: bool = False,
        retry_after: float | None = None,
        class_name: str = NO_CLASS,
    ) -> None:
        """Record that E2B's rate limit is reached: the resource returns to the wait queue.

        The number of allowed slots stays the same. Arguments as for `refused`.
        """
        self._held.discard(name)
        self._starts.rate_limited(name, retry_after)
        self._queue.join(name, since, announced=announced, class_name=class_name)
        self._wake_next()

    def release(self, name: str) -> None:
        """Release the resource's slot, or remove it from the wait queue."""
        if not self.holds(name) and name not in self._queue:
            return
        self._held.discard(name)
        self._queue.leave(name)
        self._starts.released(name)
        self._wake_next()

    def _wake_next(self) -> None:
        for name in self._queue.first(max(1, self.free)):
            self._wake(name)

    def clear(self) -> None:
        """Release all slots, empty the wait queue, and reset E2B's refusals. The shares stay."""
        self._held.clear()
        self._queue.clear()
        self._starts.reset()
