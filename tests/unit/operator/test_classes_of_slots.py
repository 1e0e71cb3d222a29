"""Which class a session asks with, and what classes, conditions, metrics and positions say about shares."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from managed_session_api.conditions import ConditionStatus, Reason
from managed_session_api.names import resource_name
from managed_session_operator.capacity.class_shares import ClassShare, shares_of
from managed_session_operator.capacity.creation_rate import CreationRate
from managed_session_operator.capacity.fair_queue import FairQueue, Standing
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.domain.class_report import ready_condition
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.domain.work_item import WorkItem, WorkList
from managed_session_operator.metrics import Metrics
from managed_session_operator.steps.context import Context

from .contexts import context
from .examples import (
    NOW,
    PAUSED,
    RUNNING,
    SESSION,
    ago,
    announced_run,
    body,
    class_body,
    offer,
    session,
    session_class,
    work,
)


def _context(*classes: dict[str, Any]) -> Context:
    found = context(capacity=Capacity(5, 80))
    for each in classes:
        found.classes.cache.observe(each)
    found.share_slots()
    return found


def test_shares_come_from_the_limits_of_the_classes() -> None:
    limits = {"weight": 3, "guaranteedSlots": 2, "maxActiveSandboxes": 7}
    shares = shares_of([session_class("gold", spec={"limits": limits}), session_class("plain")])
    assert shares == {"gold": ClassShare(3, 2, 7), "plain": ClassShare(1, 0, None)}


def test_limits_that_the_crd_refuses_become_valid_ones() -> None:
    limits = {"weight": 0, "guaranteedSlots": -1, "maxActiveSandboxes": 0}
    assert shares_of([session_class("odd", spec={"limits": limits})]) == {"odd": ClassShare(1, 0, 1)}


def test_a_session_asks_with_the_class_that_will_serve_it() -> None:
    found = _context(class_body("gold", spec={"selector": {"agentIDs": ["agent"]}}))
    assert found.class_name(session(spec={"agentID": "agent"})) == "gold"
    assert found.class_name(session(spec={"agentID": "other"})) == ""
    assert found.capacity.class_names == {"", "gold"}


def test_a_served_session_keeps_the_class_that_it_records() -> None:
    found = _context(class_body("new", spec={"selector": {"agentIDs": ["agent"]}}))
    recorded = {"name": "old", "uid": "uid-old", "generation": 1}
    served = session({"work": work(acknowledged=10), "class": recorded}, spec={"agentID": "agent"})
    ended = session({"work": work(acknowledged=10, finished=5), "class": recorded}, spec={"agentID": "agent"})
    assert found.class_name(served) == "old"
    assert found.class_name(ended) == "new"


def test_the_slot_of_an_announced_run_gives_way_to_claimed_work_under_the_next_leader_too() -> None:
    found = context(capacity=Capacity(2, 100))
    claimed = body("claimed", uid="1", session="sesn_1", status={"sandbox": RUNNING, "work": work()})
    announced = body(
        "announced",
        uid="2",
        session="sesn_2",
        status={"sandbox": RUNNING, "lastEvent": announced_run()},
    )
    paused = body("paused", uid="3", session="sesn_3", status={"sandbox": PAUSED})
    for each in (claimed, announced, paused):
        found.records.cache.observe(each)
    found.hold_slots()
    assert found.capacity.used == 2
    assert found.capacity.claimable([]) == 1, "the slot of the announced run becomes that of its claim"
    assert not found.capacity.ask("other", NOW)
    assert [found.capacity.displaced(name) for name in ("claimed", "announced")] == [False, True]


def test_a_waiting_session_whose_class_changes_keeps_its_rank() -> None:
    queue = FairQueue(lambda _: Standing())
    queue.join("moved", ago(30), class_name="old")
    queue.join("younger", ago(20), class_name="new")
    queue.join("moved", ago(10), class_name="new")
    assert queue.first(2) == ["moved", "younger"]
    assert queue.by_class == {"new": 2}


async def test_the_first_sandbox_of_a_class_is_created_before_those_of_a_flood() -> None:
    capacity = Capacity(10, 100)
    capacity.share_slots({"flood": ClassShare(), "quiet": ClassShare()})
    rate = CreationRate(0.001, 1, capacity.holds, capacity.standing)
    for number in range(5):
        assert capacity.ask(f"flood-{number}", ago(100 - number), class_name="flood")
        created = await rate.take(f"flood-{number}", ago(100 - number), class_name="flood")
        assert (created is None) == (number == 0)
    assert rate.position("flood-1") == 1
    assert capacity.ask("quiet", NOW, class_name="quiet")
    assert await rate.take("quiet", NOW, class_name="quiet") is not None
    assert [rate.position(name) for name in ("quiet", "flood-1", "flood-4")] == [1, 2, 5]


def test_positions_are_counted_in_each_class() -> None:
    items = [
        WorkItem(name, name, "queued", NOW + timedelta(seconds=number))
        for number, name in enumerate(["a1", "b1", "a2", "b2"])
    ]
    found = WorkList(items, NOW).positions(lambda name: name == "a1", lambda name: name[0])
    assert found == {"b1": 1, "a2": 1, "b2": 2}


@pytest.mark.parametrize("reduced", [None, "This class is guaranteed 1 instead of 2."])
def test_a_class_with_fewer_guaranteed_slots_is_ready_and_says_so(reduced: str | None) -> None:
    state, reason, message = ready_condition(session_class(), (), spent=False, reduced=reduced)
    assert state is ConditionStatus.TRUE
    assert reason is (Reason.GUARANTEES_REDUCED if reduced else Reason.READY)
    assert message == (reduced or "")


def test_metrics_count_by_class_and_forget_classes_that_are_gone() -> None:
    metrics = Metrics()

    def value(name: str, session_class: str) -> float | None:
        labels = {"session_class": session_class}
        return metrics.registry.get_sample_value(f"managed_sessions_class_{name}", labels)

    metrics.set_classes({"", "gold"}, {"gold": 2}, {"": 3, "deleted": 1})
    assert (value("slots_used", "gold"), value("slots_used", "")) == (2, 0)
    assert (value("waiting_resources", ""), value("waiting_resources", "deleted")) == (3, 1)
    metrics.set_classes({""}, {}, {})
    assert (value("slots_used", "gold"), value("waiting_resources", "deleted")) == (None, None)
    assert value("waiting_resources", "") == 0


def test_work_of_an_offer_that_was_left_keeps_its_time_until_it_is_served() -> None:
    inbox, first = OfferInbox(), offer(60)
    inbox.put(first)
    inbox.leave(first, ago(70))
    assert (inbox.get(SESSION), inbox.left_since(SESSION)) == (None, ago(70))
    again = offer(1)
    inbox.put(again)
    assert inbox.left_since(SESSION) == ago(70)
    inbox.remove(again)
    assert inbox.left_since(SESSION) is None
    inbox.leave(again, ago(70))
    inbox.forget(resource_name(SESSION))
    assert inbox.left_since(SESSION) is None
