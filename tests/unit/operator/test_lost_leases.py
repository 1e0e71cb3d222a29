"""Workers whose item is theirs no more."""

from __future__ import annotations

import pytest
from managed_session_operator.lost_leases import LostLeases
from managed_session_operator.work_list import WorkItem, WorkList

from .examples import SESSION, ago, session

BEGUN = {"claim": "c", "acknowledgedAt": ago(100), "firstHeartbeatAt": ago(99)}


def _list(state: str, seconds_ago: float) -> WorkList:
    return WorkList([WorkItem(SESSION, SESSION, state, ago(100))], ago(seconds_ago))


@pytest.mark.parametrize("state", ["queued", "stopped"])
def test_two_lists_in_a_row_show_that_a_lease_is_lost(state: str) -> None:
    resource, leases = session({"work": BEGUN}), LostLeases()
    assert leases.found([resource], _list(state, 60)) == []
    listed = _list(state, 30)
    assert leases.found([resource], listed) == [(resource, listed.items[0])]


@pytest.mark.parametrize("between", ["active", "starting", "stopping"])
def test_a_list_between_that_shows_it_held_begins_anew(between: str) -> None:
    resource, leases = session({"work": BEGUN}), LostLeases()
    for state, age in (("queued", 60), (between, 30), ("queued", 20)):
        assert leases.found([resource], _list(state, age)) == []


def test_the_same_list_counts_once() -> None:
    resource, leases, listed = session({"work": BEGUN}), LostLeases(), _list("queued", 60)
    assert leases.found([resource], listed) == leases.found([resource], listed) == []


@pytest.mark.parametrize(
    "work",
    [
        {},
        {**BEGUN, "finishedAt": ago(90)},
        {**BEGUN, "firstHeartbeatAt": None},
        {**BEGUN, "firstHeartbeatAt": ago(10)},
    ],
    ids=["none", "ended", "not begun", "begun since"],
)
def test_only_a_worker_that_had_begun_can_have_lost_its_lease(work: dict[str, object]) -> None:
    resource, leases = session({"work": work}), LostLeases()
    assert leases.found([resource], _list("queued", 60)) == []
    assert leases.found([resource], _list("queued", 30)) == []
