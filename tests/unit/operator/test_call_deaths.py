"""What the resource reports about workers that died in a tool call."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.conditions import ConditionStatus, Reason
from managed_session_operator.steps.call_deaths import deaths_of, deaths_update

from .examples import NOW, session

KILLED = "killed (signal 9)"


def _entry(deaths: int, cause: str = KILLED) -> dict[str, Any]:
    return {"tool": "bash", "deaths": deaths, "cause": cause}


def _known(deaths: int) -> dict[str, Any]:
    condition = {
        "type": "ToolCallFatal",
        "status": "True",
        "reason": "WorkerEndedInCall",
        "lastTransitionTime": NOW.isoformat(),
    }
    return {"callDeaths": [{"id": "sevt_1", **_entry(deaths)}], "conditions": [condition]}


@pytest.mark.parametrize(
    ("deaths", "reason", "message"),
    [
        (
            1,
            Reason.WORKER_ENDED_IN_CALL,
            f"The tool call bash (sevt_1) ended its worker (1 of at most 3 times): {KILLED}.",
        ),
        (
            3,
            Reason.TOOL_CALL_GIVEN_UP,
            (
                f"The tool call bash (sevt_1) ended its worker 3 times: {KILLED}. "
                "The next worker answers it with an error."
            ),
        ),
    ],
)
def test_a_death_is_recorded_with_a_condition_and_an_event(deaths: int, reason: Reason, message: str) -> None:
    found = deaths_update(session(_known(deaths - 1)), {"sevt_1": _entry(deaths)}, 3, over=False)
    assert found.fields == {"callDeaths": [{"id": "sevt_1", **_entry(deaths)}]}
    assert [(each.status, each.reason, each.message) for each in found.conditions] == [
        (ConditionStatus.TRUE, reason, message)
    ]
    assert found.news == [(reason, message)]


@pytest.mark.parametrize("counted", [{}, {"sevt_1": _entry(1)}, {"sevt_1": _entry(2)}])
def test_known_deaths_are_not_reported_again_and_counts_never_decrease(counted: dict[str, Any]) -> None:
    found = deaths_update(session(_known(2)), counted, 3, over=False)
    assert (found.fields, found.conditions, found.news) == ({}, [], [])


def test_a_worker_that_ends_cleanly_ends_the_count() -> None:
    found = deaths_update(session(_known(2)), {}, 3, over=True)
    assert found.fields == {"callDeaths": None}
    assert [(each.status, each.reason) for each in found.conditions] == [(ConditionStatus.FALSE, Reason.IDLE)]
    untouched = deaths_update(session({}), {}, 3, over=True)
    assert untouched.conditions == []


def test_calls_are_counted_separately_up_to_a_maximum() -> None:
    found = deaths_update(session(_known(2)), {"sevt_2": _entry(1)}, 3, over=False)
    assert [each["id"] for each in found.fields["callDeaths"]] == ["sevt_1", "sevt_2"]
    many = {f"sevt_{number}": _entry(1) for number in range(100)}
    assert len(deaths_update(session(_known(2)), many, 3, over=False).fields["callDeaths"]) == 20


def test_deaths_that_a_sandbox_reports_are_validated_and_shortened() -> None:
    reported: dict[str, dict[str, Any]] = {
        "sevt_2": {"tool": "x" * 1000, "deaths": 1, "cause": "y" * 1000},
        "sevt_3": {"deaths": "many"},
    }
    found = deaths_update(session({}), reported, 3, over=False)
    [entry] = found.fields["callDeaths"]
    assert (len(entry["tool"]), len(entry["cause"])) == (100, 200)


def test_the_next_worker_gets_the_counts_of_the_resource() -> None:
    assert deaths_of(session(_known(2))) == {"sevt_1": _entry(2)}
    assert deaths_of(session({})) == {}
