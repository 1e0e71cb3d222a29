"""The environment's work list."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from managed_session_operator.domain.work_item import WorkItem, WorkList

from .examples import NOW

ITEM = WorkItem("sesn_1", "sesn_1", "starting", NOW, acknowledged_at=NOW)


def test_only_an_acknowledged_item_without_a_heartbeat_is_unstarted() -> None:
    assert ITEM.unstarted
    assert not replace(ITEM, latest_heartbeat_at=NOW).unstarted
    assert not any(replace(ITEM, state=state).unstarted for state in ("queued", "active", "stopped"))


def test_sessions_item_is_found_by_its_session_whatever_its_own_id() -> None:
    other = replace(ITEM, work_id="work_2", session_id="sesn_2", created_at=NOW + timedelta(seconds=1))
    health = replace(ITEM, work_id="work_3", session_id=None)
    listed = WorkList([ITEM, other, health], NOW)
    assert listed.of_session("sesn_2") is other
    assert listed.of_session("sesn_3") is None
    assert listed.items == (ITEM, other, health)


def test_queue_positions_follow_the_queueing_time_and_skip_sessions_with_a_slot() -> None:
    queued = [
        replace(ITEM, session_id=f"sesn_{age}", state="queued", created_at=NOW - timedelta(seconds=age))
        for age in (10, 40, 20, 30)
    ]
    acknowledged = replace(ITEM, session_id="sesn_50", created_at=NOW - timedelta(seconds=50))
    health = replace(queued[0], session_id=None)
    listed = WorkList([*queued, acknowledged, health], NOW)
    assert listed.positions("sesn_40".__eq__) == {"sesn_30": 1, "sesn_20": 2, "sesn_10": 3}


def test_of_several_items_of_a_session_the_newest_that_is_not_stopped_counts_in_any_order() -> None:
    def item(number: int, state: str) -> WorkItem:
        return replace(ITEM, work_id=f"work_{number}", state=state, created_at=NOW + timedelta(number))

    turns = [item(1, "stopped"), item(2, "queued"), item(3, "stopped")]
    for listed in (turns, turns[::-1]):
        assert WorkList(listed, NOW).of_session("sesn_1") is turns[1]
        assert WorkList(listed, NOW).positions(lambda _: False) == {"sesn_1": 1}
    ended = [item(1, "stopped"), item(3, "stopped"), item(2, "stopped")]
    assert WorkList(ended, NOW).of_session("sesn_1") is ended[1]
