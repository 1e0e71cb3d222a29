"""Which resources have a slot, for claimed work or for an announced run, and the class of each."""

from __future__ import annotations

from collections import Counter
from datetime import datetime


class HeldSlots:
    """The slots in use. A resource keeps the class with which it got its slot until it frees the slot."""

    def __init__(self) -> None:
        self._class_of: dict[str, str] = {}
        self._announced: dict[str, datetime] = {}
        self._by_class: Counter[str] = Counter()
        self._announced_by_class: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, name: str) -> bool:
        return name in self._class_of

    @property
    def claimed(self) -> int:
        """Number of slots for claimed work."""
        return len(self._class_of) - len(self._announced)

    @property
    def by_class(self) -> dict[str, int]:
        """Number of slots of each class that has any."""
        return dict(self._by_class)

    def of(self, class_name: str) -> int:
        """Return the number of slots that the class has."""
        return self._by_class[class_name]

    def claimed_of(self, class_name: str) -> int:
        """Return the number of slots that the class has for claimed work."""
        return self._by_class[class_name] - self._announced_by_class[class_name]

    def is_claimed(self, name: str) -> bool:
        """Return whether the resource has a slot for claimed work."""
        return name in self._class_of and name not in self._announced

    def is_announced(self, name: str) -> bool:
        """Return whether the resource has a slot for an announced run."""
        return name in self._announced

    def announced(self, class_name: str | None = None) -> list[str]:
        """Return the resources with a slot for an announced run, oldest first; by default of all classes."""
        names = [name for name in self._announced if class_name in (None, self._class_of[name])]
        return sorted(names, key=lambda name: self._announced[name])

    def add(self, name: str, class_name: str, announced_since: datetime | None = None) -> None:
        """Add a slot. That of an announced run becomes one for claimed work, in the class that it has.

        Args:
            name: name of the resource.
            class_name: its class, if it has no slot yet.
            announced_since: since when its announced run has been waiting; None for claimed work.
        """
        if name not in self._class_of:
            self._class_of[name] = class_name
            self._by_class[class_name] += 1
            if announced_since is not None:
                self._announced[name] = announced_since
                self._announced_by_class[class_name] += 1
        elif announced_since is None and name in self._announced:
            del self._announced[name]
            self._announced_by_class[self._class_of[name]] -= 1

    def discard(self, name: str) -> None:
        """Free the resource's slot, if it has one."""
        class_name = self._class_of.pop(name, None)
        if class_name is None:
            return
        if self._announced.pop(name, None) is not None:
            self._announced_by_class[class_name] -= 1
        self._by_class[class_name] -= 1
        if not self._by_class[class_name]:
            del self._by_class[class_name], self._announced_by_class[class_name]

    def clear(self) -> None:
        """Free all slots."""
        self._class_of.clear()
        self._announced.clear()
        self._by_class.clear()
        self._announced_by_class.clear()
