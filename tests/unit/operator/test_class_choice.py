"""Which class serves a session: selectors, precedence, defaults and ties."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.resource import ClassReference
from managed_session_api.session_class import ClassSelector, ManagedSessionClass
from managed_session_operator.domain.class_choice import (
    Choice,
    SessionFacts,
    choose,
    matches,
    overlapping,
    session_facts,
)
from managed_session_operator.domain.session import SessionView

from .examples import ENVIRONMENT, SESSION, session, session_class

FACTS = SessionFacts(ENVIRONMENT, "agent_1", "coder", {"team": "a", "tier": "gold"})


def metadata(*expressions: tuple[Any, ...], **labels: str) -> dict[str, Any]:
    """Return a selector of metadata."""
    listed = [
        {"key": key, "operator": operator, **({"values": [*values]} if values else {})}
        for key, operator, *values in expressions
    ]
    return {"sessionMetadata": {"matchLabels": labels, "matchExpressions": listed}}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"agentIDs": ["agent_1"]}, True),
        ({"agentIDs": ["agent_2", "agent_1"]}, True),
        ({"agentIDs": ["agent_2"]}, False),
        ({"agentNames": ["coder"]}, True),
        ({"agentNames": ["Coder"]}, False),
        ({"environmentID": ENVIRONMENT}, True),
        ({"environmentID": "env_other"}, False),
        ({"agentIDs": ["agent_1"], "environmentID": "env_other"}, False),
        ({"agentIDs": ["agent_1"], "agentNames": ["coder"], "environmentID": ENVIRONMENT}, True),
        (metadata(team="a"), True),
        (metadata(team="b"), False),
        (metadata(team="a", tier="gold"), True),
        (metadata(team="a", tier="silver"), False),
        (metadata(missing="x"), False),
        (metadata(("team", "In", "a", "b")), True),
        (metadata(("team", "In", "b")), False),
        (metadata(("missing", "In", "a")), False),
        (metadata(("team", "NotIn", "b")), True),
        (metadata(("team", "NotIn", "a")), False),
        (metadata(("missing", "NotIn", "a")), True),
        (metadata(("team", "Exists")), True),
        (metadata(("missing", "Exists")), False),
        (metadata(("team", "DoesNotExist")), False),
        (metadata(("missing", "DoesNotExist")), True),
        (metadata(("team", "Exists"), ("team", "NotIn", "a")), False),
        (metadata(("team", "Exists"), tier="silver"), False),
    ],
    ids=str,
)
def test_a_selector_matches_if_all_its_parts_do(selector: dict[str, Any], expected: bool) -> None:
    assert matches(ClassSelector.model_validate(selector), FACTS) is expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"environmentID": ENVIRONMENT}, True),
        ({"agentIDs": ["agent_1"]}, None),
        ({"agentNames": ["coder"]}, None),
        (metadata(team="a"), None),
        ({"agentIDs": ["agent_1"], "environmentID": "env_other"}, False),
        ({"sessionMetadata": {}}, True),
    ],
    ids=str,
)
def test_a_session_that_was_not_read_matches_only_what_its_resource_shows(
    selector: dict[str, Any], expected: bool | None
) -> None:
    assert matches(ClassSelector.model_validate(selector), SessionFacts(ENVIRONMENT)) is expected


def a_class(name: str, precedence: int = 0, **selector: Any) -> ManagedSessionClass:
    spec: dict[str, Any] = {"precedence": precedence}
    return session_class(name, spec={**spec, "selector": selector} if selector else spec)


def by_agent(name: str, precedence: int = 0) -> ManagedSessionClass:
    return a_class(name, precedence, agentIDs=["agent_1"])


OTHER = a_class("other", 99, agentIDs=["agent_2"])


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([], None),
        ([OTHER], None),
        ([by_agent("gold")], "gold"),
        ([by_agent("gold"), OTHER], "gold"),
        ([by_agent("gold"), by_agent("silver", 1)], "silver"),
        ([by_agent("gold", -5), by_agent("silver", -6)], "gold"),
        ([a_class("default")], "default"),
        ([a_class("default"), a_class("second", 1)], "second"),
        ([a_class("default", 50), by_agent("gold")], "gold"),
        ([a_class("default"), OTHER], "default"),
    ],
    ids=str,
)
def test_the_highest_precedence_wins_and_a_default_serves_the_rest(
    classes: list[ManagedSessionClass], expected: str | None
) -> None:
    choices = [choose(order, FACTS) for order in itertools.permutations(classes)]
    assert all(choice == choices[0] for choice in choices)
    chosen = choices[0].chosen
    assert (chosen.metadata.name if chosen is not None else None) == expected


TIED = [by_agent("gold"), by_agent("silver"), a_class("default")]


def test_a_tie_is_decided_by_nobody_and_names_the_classes() -> None:
    choice = choose(TIED, FACTS)
    assert (choice.chosen, choice.tied) == (None, ("gold", "silver"))
    assert "gold, silver" in choice.message
    assert choose([a_class("one"), a_class("two")], FACTS).tied == ("one", "two")
    assert choose([*TIED, by_agent("high", 1)], FACTS).chosen is not None


def test_a_session_keeps_the_class_of_a_tie_that_it_has() -> None:
    kept = choose(TIED, FACTS, ClassReference(name="silver", uid="uid-silver", generation=1))
    assert kept.chosen is TIED[1]
    namesake = ClassReference(name="silver", uid="uid-of-an-earlier-one", generation=1)
    assert choose(TIED, FACTS, namesake).tied
    assert choose(TIED, FACTS, ClassReference(name="default", generation=1)).tied


def test_a_higher_class_replaces_the_recorded_one() -> None:
    recorded = ClassReference(name="gold", uid="uid-gold", generation=1)
    choice = choose([by_agent("gold"), by_agent("high", 1)], FACTS, recorded)
    assert choice.chosen is not None
    assert choice.chosen.metadata.name == "high"


def test_the_session_is_read_only_if_the_choice_depends_on_it() -> None:
    unread = SessionFacts(ENVIRONMENT)
    certain = a_class("certain", 5, environmentID=ENVIRONMENT)
    assert choose([certain, by_agent("gold", 4)], unread).chosen is certain
    assert choose([certain, by_agent("gold", 5)], unread) == Choice(undecided=True)
    assert choose([by_agent("gold", -1)], unread) == Choice(undecided=True)
    assert choose([a_class("default"), by_agent("gold", -1)], unread) == Choice(undecided=True)


def test_facts_come_from_the_resource_and_then_from_the_session() -> None:
    resource = session(spec={"agentID": "agent_of_resource"})
    view = SessionView(
        SESSION, "env_x", "agent_read", "idle", archived=False, agent_name="coder", metadata={"a": "b"}
    )
    assert session_facts(resource, None) == SessionFacts(ENVIRONMENT, "agent_of_resource")
    assert session_facts(session(), view) == SessionFacts(ENVIRONMENT, "agent_read", "coder", {"a": "b"})
    assert session_facts(resource, view).agent_id == "agent_of_resource"


def test_classes_of_equal_selector_and_precedence_overlap() -> None:
    found = overlapping([by_agent("a"), by_agent("b"), by_agent("c", 1), a_class("d"), a_class("e")])
    assert found == {"a": {"b"}, "b": {"a"}, "d": {"e"}, "e": {"d"}}
    labels = [metadata(team="a", tier="b"), metadata(tier="b", team="a")]
    assert overlapping([a_class(f"{number}", **each) for number, each in enumerate(labels)]).keys() == {
        "0",
        "1",
    }


def test_each_class_is_looked_at_a_few_times_however_many_precedences_there_are() -> None:
    looks = 0

    class Seen:
        def __init__(self, number: int) -> None:
            self._seen = a_class(f"class-{number}", number, agentIDs=[f"agent_of_{number}"])

        def __getattr__(self, name: str) -> Any:
            nonlocal looks
            looks += 1
            return getattr(self._seen, name)

    classes: list[Any] = [Seen(number) for number in range(200)]
    assert choose(classes, FACTS) == Choice()
    assert looks <= 10 * len(classes)


selectors = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "agentIDs": st.lists(st.sampled_from(["agent_1", "agent_2"]), max_size=2),
        "agentNames": st.lists(st.sampled_from(["coder", "writer"]), max_size=2),
        "environmentID": st.sampled_from([ENVIRONMENT, "env_other"]),
        "sessionMetadata": st.sampled_from([{"matchLabels": {"team": "a"}}, {"matchLabels": {"team": "b"}}]),
    },
)


@st.composite
def many_classes(draw: st.DrawFn) -> list[ManagedSessionClass]:
    count = draw(st.integers(0, 5))
    specs = [{"precedence": draw(st.integers(-1, 1)), "selector": draw(selectors)} for _ in range(count)]
    return [session_class(f"class-{number}", spec=spec) for number, spec in enumerate(specs)]


@given(many_classes(), st.randoms(), st.none() | st.integers(0, 5))
def test_what_is_chosen_is_the_best_match_in_any_order_and_more_knowledge_never_changes_it(
    classes: list[ManagedSessionClass], random: Any, number: int | None
) -> None:
    recorded = None
    if number is not None:
        recorded = ClassReference(name=f"class-{number}", uid=f"uid-class-{number}", generation=1)
    choice = choose(classes, FACTS, recorded)
    shuffled = [*classes]
    random.shuffle(shuffled)
    assert choose(shuffled, FACTS, recorded) == choice
    assert not choice.undecided

    def rank(each: ManagedSessionClass) -> tuple[bool, int]:
        return each.spec.selector is not None, each.spec.precedence

    matching = [each for each in classes if matches(each.spec.selector, FACTS)]
    best = [each for each in matching if rank(each) == max(map(rank, matching))]
    if choice.chosen is not None:
        assert choice.chosen in best
        assert len(best) == 1 or (recorded is not None and choice.chosen.metadata.name == recorded.name)
    else:
        assert set(choice.tied) == {each.metadata.name for each in best}
    unread = choose(classes, SessionFacts(ENVIRONMENT), recorded)
    assert unread.undecided or unread == choice
