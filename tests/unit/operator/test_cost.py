"""What a session costs: each amount and each second is counted once."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.resource import CostStatus, ManagedSession
from managed_session_api.times import to_wire
from managed_session_operator.clients.clock import SystemClock
from managed_session_operator.domain.cost import NO_PRICES, Added, SandboxPrices, added, cost_fields
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.status_patch import status_patch
from managed_session_operator.domain.usage import Usage, later, newest_usage, read_usage
from managed_session_operator.steps.session_records import SessionRecords

from ...support.merge_patch import merge_patch
from .examples import NOW, ago, body, session

DAY = "2026-11-23"


def saved(began: datetime, ended: datetime) -> dict[str, Any]:
    """What a pause writes to `status.sandbox`."""
    return {"state": "Paused", "savedPeriodStartedAt": began, "savedAt": ended}


def cost_of(
    status: dict[str, Any], *, usage: Usage | None = None, prices: SandboxPrices = NO_PRICES, **fields: Any
) -> CostStatus:
    """The cost after a write to a resource with this status."""
    written = cost_fields(session(status), fields, NOW, usage=usage, prices=prices)
    return CostStatus.model_validate(written.get("cost", {}))


def running(**more: Any) -> dict[str, Any]:
    return {"sandbox": {"id": "i1", "state": "Running", "startedAt": to_wire(ago(100)), **more}}


def test_a_pause_adds_the_period_that_e2b_reports() -> None:
    cost = cost_of(running(), sandbox=saved(ago(90), ago(30)))
    assert (cost.sandbox_seconds, cost.counted_until) == (60, ago(30))
    assert [(each.day, each.sandbox_seconds) for each in cost.days] == [(DAY, 60)]


def test_a_period_that_is_recorded_again_adds_nothing() -> None:
    status = {**running(), "cost": {"sandboxSeconds": 60, "countedUntil": to_wire(ago(30))}}
    status["sandbox"]["state"] = "Paused"
    assert cost_fields(session(status), {"sandbox": saved(ago(90), ago(30))}, NOW) == {}


def test_a_period_of_which_a_part_is_counted_adds_the_rest() -> None:
    status = {**running(), "cost": {"sandboxSeconds": 40, "countedUntil": to_wire(ago(50))}}
    assert cost_of(status, sandbox=saved(ago(90), ago(30))).sandbox_seconds == 60


def test_a_period_whose_pause_failed_lasted_until_now() -> None:
    assert cost_of(running(), sandbox=saved(ago(20), ago(60))).sandbox_seconds == 20


def test_a_period_that_e2b_has_forgotten_counts_from_the_acknowledgement() -> None:
    status = {**running(), "work": {"acknowledgedAt": to_wire(ago(25))}}
    status["cost"] = {"sandboxSeconds": 40, "countedUntil": to_wire(ago(50))}
    assert cost_of(status, sandbox=saved(ago(90), ago(50))).sandbox_seconds == 65


@pytest.mark.parametrize("state", ["Lost", "Paused"])
def test_a_sandbox_that_vanished_while_it_ran_counts_from_its_creation_until_now(state: str) -> None:
    assert cost_of(running(), sandbox={"state": state, "savedAt": None}).sandbox_seconds == 100


def test_a_paused_sandbox_that_vanished_adds_nothing() -> None:
    status = {"sandbox": {"id": "i1", "state": "Paused", "startedAt": to_wire(ago(100))}}
    assert cost_fields(session(status), {"sandbox": {"state": "Lost", "savedAt": None}}, NOW) == {}


def test_a_session_that_leaves_a_shared_sandbox_to_others_adds_nothing() -> None:
    status = running(sharedBy="shared")
    assert cost_fields(session(status), {"sandbox": {"state": "Paused", "savedAt": NOW}}, NOW) == {}
    assert cost_fields(session(status), {"sandbox": {"state": "Paused"}}, NOW) == {}


def test_the_first_period_after_an_upgrade_counts_from_its_start() -> None:
    status = running(savedAt=to_wire(ago(500)), savedPeriodStartedAt=to_wire(ago(900)))
    assert cost_of(status, sandbox=saved(ago(90), ago(30))).sandbox_seconds == 60


def test_what_anthropic_reports_is_a_total_that_never_shrinks() -> None:
    usage = Usage(list_cost=126, budget=2500, active_seconds=41.6)
    cost = cost_of({}, usage=usage)
    assert (cost.list_cost, cost.budget, cost.active_seconds, cost.total) == ("126", "2500", 42, "$1.26")
    status = {"cost": cost.to_json()}
    assert cost_fields(session(status), {}, NOW, usage=usage) == {}
    older = cost_of(status, usage=Usage(list_cost=100, active_seconds=3.0))
    assert (older.list_cost, older.active_seconds, older.budget) == ("126", 42, None)


def test_a_removed_budget_is_removed_from_the_status() -> None:
    status = {"cost": {"listCost": "126", "budget": "2500"}}
    patch = status_patch(session(status), NOW, usage=Usage(list_cost=126))
    assert patch["cost"]["budget"] is None


def test_days_are_kept_apart_and_the_oldest_is_dropped() -> None:
    days = [{"day": f"2026-10-{number:02}", "listCost": "1"} for number in range(1, 32)]
    cost = cost_of({"cost": {"listCost": "31", "days": days}}, usage=Usage(list_cost=40))
    assert len(cost.days) == 31
    assert (cost.days[0].day, cost.days[-1].day) == ("2026-10-02", DAY)
    assert (cost.days[-1].list_cost, cost.list_cost) == ("9", "40")


BY_SIZE = SandboxPrices(per_vcpu=0.01, per_gib=0.001)
SMALL = {"vcpus": 2, "memoryMib": 512}
LARGE = {"vcpus": 8, "memoryMib": 4096}


def next_cost(before: CostStatus | None, seconds: float, **sandbox: Any) -> CostStatus:
    """The cost after a first or another minute, which ends so many seconds ago."""
    status = {**running(), **({"cost": before.to_json()} if before is not None else {})}
    return cost_of(status, prices=BY_SIZE, sandbox={**saved(ago(seconds + 60), ago(seconds)), **sandbox})


def test_each_period_costs_what_the_size_of_its_sandbox_costs() -> None:
    small = next_cost(None, 200, **SMALL)
    assert (small.vcpu_seconds, small.memory_mib_seconds) == (120, 30720)
    assert (small.sandbox_cost, small.total) == ("123", "$1.23")
    both = next_cost(small, 30, **LARGE)
    assert (both.vcpu_seconds, both.memory_mib_seconds) == (600, 276480)
    assert both.sandbox_cost == "627"


def test_periods_of_an_unknown_size_count_like_the_others() -> None:
    unknown = next_cost(None, 200)
    assert (unknown.sandbox_seconds, unknown.sandbox_cost, unknown.total) == (60, None, None)
    known = next_cost(unknown, 100, **SMALL)
    assert (known.sandbox_seconds, known.sandbox_cost) == (120, "246")
    assert next_cost(known, 0).sandbox_cost == "369"


def test_a_sandbox_that_vanished_has_the_size_of_its_last_pause() -> None:
    status = running()
    status["sandbox"] |= LARGE
    gone = {"state": "Lost", "savedAt": None, "vcpus": None, "memoryMib": None}
    assert cost_of(status, prices=BY_SIZE, sandbox=gone).vcpu_seconds == 800


def test_a_flat_price_holds_for_all_sizes() -> None:
    flat = SandboxPrices(flat=0.001, per_vcpu=1, per_gib=1)
    assert cost_of(running(), prices=flat, sandbox={**saved(ago(90), ago(30)), **LARGE}).sandbox_cost == "6"


def test_there_is_no_estimate_without_prices() -> None:
    cost = cost_of(running(), sandbox={**saved(ago(90), ago(30)), **LARGE})
    assert (cost.sandbox_cost, cost.total, cost.vcpu_seconds) == (None, None, 480)


def test_a_price_gives_an_estimate_and_a_total() -> None:
    minute = saved(ago(90), ago(30))
    cost = cost_of(running(), usage=Usage(list_cost=126), prices=SandboxPrices(0.00003), sandbox=minute)
    assert (cost.sandbox_cost, cost.total) == ("0.18", "$1.26")
    only = cost_of(running(), prices=SandboxPrices(0.001), sandbox=minute)
    assert (only.sandbox_cost, only.total, only.list_cost) == ("6", "$0.06", None)


def test_a_write_without_a_cost_leaves_it_alone() -> None:
    assert "cost" not in status_patch(session(running()), NOW, work={"claim": "x"})


@given(
    periods=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=6),
    repeats=st.integers(1, 3),
)
def test_any_run_of_periods_adds_up_to_their_length(periods: list[tuple[int, int]], repeats: int) -> None:
    resource, left, total = body(status=running()), 1000, 0
    for length, gap in periods:
        began, ended = ago(left), ago(left - length)
        left, total = left - length - gap, total + length
        resource = merge_patch(resource, {"status": running()})
        for _ in range(repeats):
            fields = cost_fields(session(resource["status"]), {"sandbox": saved(began, ended)}, NOW)
            resource = merge_patch(resource, {"status": {"sandbox": {"state": "Paused"}, **fields}})
    assert resource["status"].get("cost", {}).get("sandboxSeconds", 0) == total


def test_what_a_write_adds_is_the_difference() -> None:
    before = CostStatus(list_cost="100", active_seconds=4, sandbox_seconds=9)
    after = CostStatus(list_cost="126", active_seconds=5, sandbox_seconds=9)
    assert (added(before, after), added(None, before)) == (Added(26, 1, 0), Added(100, 4, 9))


def usage_event(kind: str = "session.usage", **used: Any) -> SimpleNamespace:
    return SimpleNamespace(type=kind, usage=SimpleNamespace(**used), budget=None)


def money(amount: Any, currency: Any = "USD") -> SimpleNamespace:
    return SimpleNamespace(amount=amount, currency=currency)


def test_the_newest_usage_event_counts() -> None:
    events = [
        usage_event("session.status_idle"),
        usage_event(list_cost=money("9"), active_seconds=2.5),
        usage_event(list_cost=money("4")),
    ]
    assert newest_usage(events) == Usage(list_cost=9, active_seconds=2.5)
    assert newest_usage(events[:1]) is None


@pytest.mark.parametrize("odd", [None, 12, "", "-1", "1.5", "٣", "9" * 19])
def test_an_odd_amount_counts_as_unknown(odd: Any) -> None:
    assert read_usage(usage_event(list_cost=money(odd), active_seconds="x")) == Usage()
    assert read_usage(SimpleNamespace()) == Usage()


@pytest.mark.parametrize(("odd", "currency"), [("EUR", "EUR"), ("eur", "USD"), (None, "USD")])
def test_an_odd_currency_is_the_usual_one(odd: Any, currency: str) -> None:
    assert read_usage(usage_event(list_cost=money("1", odd))).currency == currency


def test_the_later_of_two_reports_is_taken() -> None:
    early, late = Usage(list_cost=4, active_seconds=1.0), Usage(list_cost=9)
    assert later(early, late) == later(late, early) == late
    assert (later(None, early), later(early, None), later(None, None)) == (early, early, None)


def test_a_budget_holds_once_the_cost_has_reached_it() -> None:
    assert Usage(list_cost=24, budget=25).within_budget
    assert not Usage(list_cost=25, budget=25).within_budget
    assert Usage(list_cost=25).within_budget


class Store:
    """An API server whose CRD has the field, or not yet."""

    def __init__(self, *, knows_costs: bool) -> None:
        self._knows_costs = knows_costs

    async def patch_status(self, _: ManagedSession, status: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in status.items() if key != "cost" or self._knows_costs}
        written: dict[str, Any] = merge_patch(body(status=running(), version=2), {"status": kept})
        return written


@pytest.mark.parametrize("knows_costs", [True, False])
async def test_only_what_is_in_the_resource_is_counted(knows_costs: bool) -> None:
    counted: list[Added] = []
    records = SessionRecords(
        cast("Any", Store(knows_costs=knows_costs)),
        ResourceCache(),
        cast("Any", None),
        SystemClock(),
        on_cost=lambda _, more: counted.append(more),
    )
    resource = records.note(body(status=running()))
    await records.write_status(resource, usage=Usage(list_cost=126), turns=1)
    assert counted == [Added(126 if knows_costs else 0, 0, 0)]
