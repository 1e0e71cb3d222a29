"""Workers that have lost their item's lease."""

from __future__ import annotations

import pytest
from managed_session_operator.domain.work_item import WorkItem, WorkList
from managed_session_operator.resync.lost_leases import LostLeases

from .examples import SESSION, ago, session

BEGUN = {"claim": "c", "acknowledgedAt": ago(100), "firstHeartbeatAt": ago(99)}


def _list(state: str, seconds_ago: float) -> WorkList:
    return WorkList([WorkItem(SESSION, SESSION, state, ago(100))], ago(seconds_ago))


@pytest.mark.parametrize("state", ["queued", "stopped"])
def test_two_lists_in_a_row_prove_a_lost_lease(state: str) -> None:
    resource, leases = session({"work": BEGUN}), LostLeases()
    assert leases.found([resource], _list(state, 60)) == []
    listed = _list(state, 30)
    assert leases.found([resource], listed) == [(resource, listed.items[0])]


@pytest.mark.parametrize("between", ["active", "starting", "stopping"])
def test_a_list_that_shows_the_lease_starts_the_count_again(between: str) -> None:
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
        {**BEGUN, "servingLateSince": ago(90)},
    ],
    ids=["none", "ended", "not begun", "begun since", "serves late"],
)
def test_only_a_started_worker_can_lose_its_lease(work: dict[str, object]) -> None:
    resource, leases = session({"work": work}), LostLeases()
    assert leases.found([resource], _list("queued", 60)) == []
    assert leases.found([resource], _list("queued", 30)) == []
