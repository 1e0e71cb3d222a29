"""The share of the slots that each session class has: its weight, its guaranteed slots and its maximum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from managed_session_api.resource import ManagedSession
from managed_session_api.session_class import ManagedSessionClass

NO_CLASS = ""
"""The class of sessions that no session class matches."""


@dataclass(frozen=True)
class ClassShare:
    """A class's share of the slots.

    Attributes:
        weight: how many slots the class gets for each slot of a class with weight 1, at least 1.
        guaranteed_slots: number of slots that the class gets before all others, at least 0.
        max_active_sandboxes: maximum number of slots that the class uses at once, at least 1; None for no
            maximum of its own.

    Raises:
        ValueError: a value is out of its range.
    """

    weight: int = 1
    guaranteed_slots: int = 0
    max_active_sandboxes: int | None = None

    def __post_init__(self) -> None:
        if self.weight < 1 or self.guaranteed_slots < 0:
            raise ValueError("weight must be at least 1, and guaranteed_slots at least 0")
        if self.max_active_sandboxes is not None and self.max_active_sandboxes < 1:
            raise ValueError("max_active_sandboxes must be at least 1")

    @property
    def usable_guarantee(self) -> int:
        """Number of guaranteed slots that the class's own maximum lets it use."""
        if self.max_active_sandboxes is None:
            return self.guaranteed_slots
        return min(self.guaranteed_slots, self.max_active_sandboxes)


DEFAULT_SHARE = ClassShare()
"""The share of sessions without a class, and of classes whose share is not known."""


def class_name_of(resource: ManagedSession) -> str:
    """Return the name of the class that serves the session, "" for none."""
    recorded = resource.status.session_class
    return recorded.name if recorded is not None else NO_CLASS


def shares_of(classes: Iterable[ManagedSessionClass]) -> dict[str, ClassShare]:
    """Return the classes' shares, by name. A value that the CRD refuses becomes the nearest valid one."""
    shares = {}
    for each in classes:
        limits = each.spec.limits
        most = limits.max_active_sandboxes
        shares[each.metadata.name] = ClassShare(
            weight=max(1, limits.weight),
            guaranteed_slots=max(0, limits.guaranteed_slots),
            max_active_sandboxes=max(1, most) if most is not None else None,
        )
    return shares


def guarantees_within(shares: Mapping[str, ClassShare], slots: int) -> dict[str, int]:
    """Return the guaranteed slots of each class that has any, scaled down if they exceed the slots.

    Each class keeps its proportional part, rounded down. The slots that are left by the rounding go one each
    to the largest fractions, and among equal ones by name. So the same shares always give the same result.

    Args:
        shares: the shares by class name.
        slots: number of slots that exist.
    """
    wanted = {name: share.usable_guarantee for name, share in shares.items() if share.usable_guarantee}
    total = sum(wanted.values())
    if total <= slots:
        return wanted
    scaled = {name: count * slots // total for name, count in wanted.items()}
    by_fraction = sorted(wanted, key=lambda name: (-(wanted[name] * slots % total), name))
    for name in by_fraction[: slots - sum(scaled.values())]:
        scaled[name] += 1
    return scaled


def why_guarantee_reduced(name: str, shares: Mapping[str, ClassShare], slots: int) -> str | None:
    """Return why a class cannot have all its guaranteed slots, for its condition; None if it can.

    Args:
        name: the class's name.
        shares: the shares of all classes, by name.
        slots: number of slots that exist.
    """
    share = shares.get(name, DEFAULT_SHARE)
    if share.usable_guarantee < share.guaranteed_slots:
        return (
            f"guaranteedSlots is {share.guaranteed_slots}, but maxActiveSandboxes limits the class to "
            f"{share.max_active_sandboxes}."
        )
    granted = guarantees_within(shares, slots).get(name, 0)
    if granted == share.guaranteed_slots:
        return None
    total = sum(each.usable_guarantee for each in shares.values())
    return (
        f"All classes together are guaranteed {total} slots, but there are {slots}. "
        f"This class is guaranteed {granted} instead of {share.guaranteed_slots}."
    )
