"""Chooses the class that serves a session. Pure.

Classes with a selector come first, by their precedence. A class without one is the namespace's default and
serves the sessions that no selector matches. Of several that match with the same, highest precedence none is
chosen, unless one of them serves the session already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from managed_session_api.resource import ClassReference, ManagedSession
from managed_session_api.session_class import (
    ClassSelector,
    ManagedSessionClass,
    MatchExpression,
    MatchOperator,
    MetadataSelector,
)

from managed_session_operator.domain.session import SessionView


@dataclass(frozen=True)
class SessionFacts:
    """What selectors look at.

    Attributes:
        environment_id: the session's environment.
        agent_id: ID of its agent; None if it is not known yet.
        agent_name: name of its agent; None if it is not known yet.
        metadata: the session's metadata at Anthropic; None if they are not known yet.
    """

    environment_id: str | None = None
    agent_id: str | None = None
    agent_name: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Choice:
    """Which class serves a session.

    Attributes:
        chosen: the class; None if there is none, or it is not decided.
        tied: names of the classes between which nothing decides.
        undecided: whether the session has to be read first.
    """

    chosen: ManagedSessionClass | None = None
    tied: tuple[str, ...] = ()
    undecided: bool = False

    @property
    def message(self) -> str:
        """Describe the tie; empty if there is none."""
        if not self.tied:
            return ""
        return (
            f"The classes {', '.join(self.tied)} match the session with the same precedence. Give one of "
            "them a higher `spec.precedence`, or narrow a selector."
        )


def session_facts(resource: ManagedSession, session: SessionView | None) -> SessionFacts:
    """Return what is known about the session from its resource and from an earlier read."""
    spec = resource.spec
    if session is None:
        return SessionFacts(spec.environment_id, spec.agent_id)
    return SessionFacts(
        spec.environment_id or session.environment_id,
        spec.agent_id or session.agent_id or "",
        session.agent_name,
        session.metadata,
    )


def turn_of(resource: ManagedSession) -> tuple[object, ...]:
    """Return what identifies the session's present turn, or the one that comes next."""
    event, work = resource.status.last_event, resource.status.work
    return (event.id if event is not None else None, work.claim, work.finished_at)


def choose(
    classes: Iterable[ManagedSessionClass], facts: SessionFacts, recorded: ClassReference | None = None
) -> Choice:
    """Return which of the classes serves the session; `recorded` is the one that has served it so far."""
    for _, level in groupby(sorted(classes, key=_rank), key=_rank):
        answers = [(each, matches(each.spec.selector, facts)) for each in level]
        if any(answer is None for _, answer in answers):
            return Choice(undecided=True)
        matching = [each for each, answer in answers if answer]
        if len(matching) == 1:
            return Choice(matching[0])
        if matching:
            kept = next((each for each in matching if is_recorded(each, recorded)), None)
            names = tuple(sorted(each.metadata.name for each in matching))
            return Choice(kept) if kept is not None else Choice(tied=names)
    return Choice()


def _rank(each: ManagedSessionClass) -> tuple[bool, int]:
    return each.spec.selector is None, -each.spec.precedence


def is_recorded(each: ManagedSessionClass, recorded: ClassReference | None) -> bool:
    """Return whether `recorded` refers to this class, and not to an earlier one of the same name."""
    return (
        recorded is not None
        and recorded.name == each.metadata.name
        and recorded.uid in (None, each.metadata.uid)
    )


def matches(selector: ClassSelector | None, facts: SessionFacts) -> bool | None:
    """Return whether all parts of the selector match; None if that depends on what is not known yet."""
    if selector is None:
        return True
    answers = (
        _one_of(selector.agent_ids, facts.agent_id),
        _one_of(selector.agent_names, facts.agent_name),
        _one_of([selector.environment_id] if selector.environment_id else [], facts.environment_id),
        _metadata_matches(selector.session_metadata, facts.metadata),
    )
    if False in answers:
        return False
    return None if None in answers else True


def _one_of(wanted: list[str], value: str | None) -> bool | None:
    if not wanted:
        return True
    return None if value is None else value in wanted


def _metadata_matches(selector: MetadataSelector | None, metadata: Mapping[str, str] | None) -> bool | None:
    if selector is None or not (selector.match_labels or selector.match_expressions):
        return True
    if metadata is None:
        return None
    return selector.match_labels.items() <= metadata.items() and all(
        _satisfies(expression, metadata) for expression in selector.match_expressions
    )


def _satisfies(expression: MatchExpression, metadata: Mapping[str, str]) -> bool:
    """Return whether the metadata satisfy the expression, as a label selector of Kubernetes means it."""
    value = metadata.get(expression.key)
    match expression.operator:
        case MatchOperator.IN:
            return value in expression.values
        case MatchOperator.NOT_IN:
            return value not in expression.values
        case MatchOperator.EXISTS:
            return value is not None
        case MatchOperator.DOES_NOT_EXIST:
            return value is None


def overlapping(classes: Iterable[ManagedSessionClass]) -> dict[str, set[str]]:
    """Return which classes tie with which others whatever the session: defaults, or equal selectors."""
    alike: dict[tuple[int, str], set[str]] = {}
    for each in classes:
        selector = each.spec.selector.to_json() if each.spec.selector is not None else None
        key = each.spec.precedence, json.dumps(selector, sort_keys=True)
        alike.setdefault(key, set()).add(each.metadata.name)
    return {name: same - {name} for same in alike.values() if len(same) > 1 for name in same}
