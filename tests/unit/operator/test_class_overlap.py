"""Which classes may be chosen instead of another."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.session_class import ManagedSessionClass
from managed_session_operator.domain.class_overlap import outranked_by


def session_class(name: str, precedence: int = 0, selector: Any = None) -> ManagedSessionClass:
    spec = {"precedence": precedence, "selector": selector}
    return ManagedSessionClass.model_validate({"metadata": {"name": name}, "spec": spec})


A, B = {"agentIDs": ["agent_a"]}, {"agentIDs": ["agent_b"]}


@pytest.mark.parametrize(
    ("own", "other", "outranked"),
    [
        ((0, A), (1, A), True),
        ((0, A), (0, A), True),
        ((1, A), (0, A), False),
        ((0, A), (1, B), False),
        ((0, A), (1, {"agentIDs": ["agent_b", "agent_a"]}), True),
        ((0, A), (1, {"agentNames": ["Ann"]}), True),
        ((0, {"agentNames": ["Bob"]}), (1, {"agentNames": ["Ann"]}), False),
        ((0, A), (1, {"environmentID": "env_1"}), True),
        ((0, {"environmentID": "env_2"}), (1, {"environmentID": "env_1"}), False),
        ((0, A | {"environmentID": "env_2"}), (1, A | {"environmentID": "env_1"}), False),
        ((0, A), (1, {"sessionMetadata": {"matchLabels": {"tier": "gold"}}}), True),
        (
            (0, {"sessionMetadata": {"matchLabels": {"tier": "free", "x": "y"}}}),
            (1, {"sessionMetadata": {"matchLabels": {"tier": "gold"}}}),
            False,
        ),
        (
            (0, {"sessionMetadata": {"matchLabels": {"tier": "free"}}}),
            (1, {"sessionMetadata": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}),
            True,
        ),
        ((5, None), (0, A), True),
        ((0, A), (5, None), False),
        ((0, None), (0, None), True),
        ((0, None), (1, None), True),
        ((1, None), (0, None), False),
    ],
)
def test_a_class_is_outranked_where_another_may_be_chosen(
    own: tuple[int, Any], other: tuple[int, Any], outranked: bool
) -> None:
    this, that = session_class("this", *own), session_class("that", *other)
    assert outranked_by(this, [this, that]) == (["that"] if outranked else [])


def test_names_are_sorted() -> None:
    others = [session_class(name, 1, A) for name in ("silver", "gold")]
    assert outranked_by(session_class("this", 0, A), others) == ["gold", "silver"]
