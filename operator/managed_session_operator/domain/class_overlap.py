"""Tells which classes may be chosen instead of another: the pure part of `status.outrankedBy`."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from managed_session_api.session_class import ClassSelector, ManagedSessionClass, MetadataSelector


def outranked_by(of: ManagedSessionClass, classes: Iterable[ManagedSessionClass]) -> list[str]:
    """Return the names of the classes that may be chosen instead for a session that `of` matches, sorted.

    A class is named unless no session can match both, or `of` takes precedence over it. Two classes of the
    same precedence name each other, because neither is chosen. A default class serves only what no class with
    a selector matches.

    Args:
        of: the class.
        classes: all classes of its namespace; `of` itself may be among them.
    """
    others = (each for each in classes if each.metadata.name != of.metadata.name)
    return sorted(each.metadata.name for each in others if _may_outrank(each, of))


def _may_outrank(other: ManagedSessionClass, this: ManagedSessionClass) -> bool:
    theirs, ours = other.spec.selector, this.spec.selector
    if theirs is None or ours is None:
        both_defaults = theirs is None and ours is None
        return other.spec.precedence >= this.spec.precedence if both_defaults else theirs is not None
    return other.spec.precedence >= this.spec.precedence and not _disjoint(theirs, ours)


def _disjoint(one: ClassSelector, other: ClassSelector) -> bool:
    """Return whether it is certain that no session matches both."""
    return (
        _without_common(one.agent_ids, other.agent_ids)
        or _without_common(one.agent_names, other.agent_names)
        or _different(one.environment_id, other.environment_id)
        or _contradict(one.session_metadata, other.session_metadata)
    )


def _without_common(one: Collection[str], other: Collection[str]) -> bool:
    return bool(one) and bool(other) and set(one).isdisjoint(other)


def _different(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _contradict(one: MetadataSelector | None, other: MetadataSelector | None) -> bool:
    """Return whether both want a different value of the same key. Expressions are not compared."""
    if one is None or other is None:
        return False
    common = one.match_labels.keys() & other.match_labels.keys()
    return any(one.match_labels[key] != other.match_labels[key] for key in common)
