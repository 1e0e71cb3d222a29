"""How many sandboxes may run at once, and who has a place."""

from __future__ import annotations


class Capacity:
    """Places for running sandboxes. Lives on one event loop.

    A resource holds a place from before its sandbox is created or resumed until it is paused or gone.

    Args:
        limit: places in all.
        hint_percent: part of the places that sessions without claimed work may hold together.
    """

    def __init__(self, limit: int, hint_percent: int) -> None:
        self._limit = limit
        self._hint_limit = limit * hint_percent // 100
        self._claimed: set[str] = set()
        self._hinted: set[str] = set()

    @property
    def limit(self) -> int:
        """Places in all."""
        return self._limit

    @property
    def used(self) -> int:
        """Places that are held."""
        return len(self._claimed) + len(self._hinted)

    @property
    def free(self) -> int:
        """Places that nobody holds."""
        return max(0, self._limit - self.used)

    @property
    def claimable(self) -> int:
        """Places that claimed work may still come to hold: a hint's place turns into its claim's."""
        return max(0, self._limit - len(self._claimed))

    def holds_for_claim(self, name: str) -> bool:
        """Whether the resource has a place for claimed work."""
        return name in self._claimed

    def holds(self, name: str) -> bool:
        """Whether the resource has a place."""
        return name in self._claimed or name in self._hinted

    def take_for_claim(self, name: str, *, force: bool = False) -> bool:
        """A place for claimed work; `force` where its sandbox runs already."""
        if name in self._hinted:
            self._hinted.discard(name)
            self._claimed.add(name)
        if name in self._claimed or force or self.free > 0:
            self._claimed.add(name)
            return True
        return False

    def take_for_hint(self, name: str) -> bool:
        """A place for a session whose work is announced and not claimed yet."""
        if self.holds(name):
            return True
        if self.free > 0 and self.used < self._hint_limit:
            self._hinted.add(name)
            return True
        return False

    def release(self, name: str) -> None:
        """Give the resource's place back."""
        self._claimed.discard(name)
        self._hinted.discard(name)

    def clear(self) -> None:
        """Forget all places."""
        self._claimed.clear()
        self._hinted.clear()
