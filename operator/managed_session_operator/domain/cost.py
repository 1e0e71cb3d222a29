"""Adds up what a session costs, in the writes that end its turns and record its pauses. Pure.

Anthropic's amounts are totals of the session, so a report that comes twice or late changes nothing. A
sandbox's running time is added period by period, and `countedUntil` keeps any second from being added twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from managed_session_api.resource import CostOfDay, CostStatus, ManagedSession, SandboxState

from managed_session_operator.domain.days import day_of
from managed_session_operator.domain.usage import Usage

_DAYS = 31
"""Days that a resource keeps. The CRD has the same limit."""


@dataclass(frozen=True)
class SandboxPrices:
    """What one second of a running sandbox costs, in dollars.

    Attributes:
        flat: the price of a sandbox of any size. If it is set, the others do not count.
        per_vcpu: the price of each virtual processor.
        per_gib: the price of each GiB of memory.
    """

    flat: float | None = None
    per_vcpu: float = 0.0
    per_gib: float = 0.0


NO_PRICES = SandboxPrices()
_MIB_PER_GIB = 1024


@dataclass(frozen=True)
class Added:
    """What one write adds to the cost of a session: cents, and seconds."""

    list_cost: int = 0
    active_seconds: int = 0
    sandbox_seconds: int = 0


def cost_fields(
    resource: ManagedSession,
    fields: Mapping[str, Any],
    now: datetime,
    *,
    usage: Usage | None = None,
    prices: SandboxPrices = NO_PRICES,
) -> dict[str, Any]:
    """Return `status.cost` for a write to the status; empty if the write adds nothing to it.

    Args:
        resource: the resource before the write.
        fields: what is written to the status.
        now: the time of the write.
        usage: what Anthropic reports, if that was read.
        prices: what running sandboxes cost.
    """
    sandbox = fields.get("sandbox") or {}
    if usage is None and not sandbox:
        return {}
    before = resource.status.cost or CostStatus()
    after = before.model_copy(deep=True)
    if usage is not None:
        _take_over(after, usage)
    period = ended_period(resource, sandbox, now)
    if period is not None and period[1] > period[0]:
        seconds = round((period[1] - period[0]).total_seconds())
        _add_period(after, seconds, _size(resource, sandbox))
        after.counted_until = period[1]
    if after == before:
        return {}
    _add_to_day(after, added(before, after), day_of(now))
    _sum_up(after, prices)
    return {"cost": dict.fromkeys(before.to_json()) | after.to_json()}


def added(before: CostStatus | None, after: CostStatus) -> Added:
    """Return what the newer status has more than the older one."""
    before = before or CostStatus()
    return Added(
        int(after.list_cost or 0) - int(before.list_cost or 0),
        after.active_seconds - before.active_seconds,
        after.sandbox_seconds - before.sandbox_seconds,
    )


def _take_over(cost: CostStatus, usage: Usage) -> None:
    if usage.list_cost is not None and usage.list_cost >= int(cost.list_cost or 0):
        cost.list_cost, cost.currency = str(usage.list_cost), usage.currency
    if usage.active_seconds is not None:
        cost.active_seconds = max(cost.active_seconds, round(usage.active_seconds))
    cost.budget = str(usage.budget) if usage.budget is not None else None


def ended_period(
    resource: ManagedSession, sandbox: Mapping[str, Any], now: datetime
) -> tuple[datetime, datetime] | None:
    """Return the part of a running period that ends with this write and is not counted yet.

    What E2B reports of a paused sandbox comes first. Without that, as when the sandbox has vanished or went
    back to an older state, the period lasted from what the status knows of its start until now.

    Args:
        resource: the resource before the write.
        sandbox: what is written to `status.sandbox`.
        now: the time of the write.
    """
    known = resource.status.sandbox
    counted = _counted_until(resource)
    ran = known.state is SandboxState.RUNNING
    began, ended = sandbox.get("savedPeriodStartedAt"), sandbox.get("savedAt")
    if began is not None and ended is not None and (counted is None or began > counted or ended > counted):
        # A pause that failed ends its period, although what was saved is older.
        until = ended if ended >= began else now
        return max(began, counted or began), until
    vanished = sandbox.get("state") in (SandboxState.PAUSED, SandboxState.LOST) and ended is None
    rolled_back = began is not None
    if not ran or not (rolled_back or (vanished and known.shared_by is None)):
        return None
    since = _own_start(resource, counted)
    return (since, now) if since is not None else None


def _counted_until(resource: ManagedSession) -> datetime | None:
    """Return until when running periods are counted. An earlier version only recorded the newest pause."""
    cost, saved_at = resource.status.cost, resource.status.sandbox.saved_at
    return cost.counted_until if cost is not None and cost.counted_until is not None else saved_at


def _own_start(resource: ManagedSession, counted: datetime | None) -> datetime | None:
    """Return when the running period of the sandbox began, as far as the status knows."""
    work, sandbox = resource.status.work, resource.status.sandbox
    times = (sandbox.started_at, work.acknowledged_at, work.wait_resumed_at)
    after = [each for each in times if each is not None and (counted is None or each > counted)]
    return min(after, default=counted)


def _add_to_day(cost: CostStatus, more: Added, day: str) -> None:
    if more == Added():
        return
    if not cost.days or cost.days[-1].day < day:
        cost.days = [*cost.days, CostOfDay(day=day)][-_DAYS:]
    newest = cost.days[-1]
    newest.list_cost = str(int(newest.list_cost) + more.list_cost)
    newest.active_seconds += more.active_seconds
    newest.sandbox_seconds += more.sandbox_seconds


def _size(resource: ManagedSession, sandbox: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the virtual processors and MiB of the sandbox whose period ends with a write, if known."""
    known = resource.status.sandbox
    return sandbox.get("vcpus") or known.vcpus, sandbox.get("memoryMib") or known.memory_mib


def _add_period(cost: CostStatus, seconds: int, size: tuple[int | None, int | None]) -> None:
    """Add a running period. Seconds of an unknown size count like the others."""
    vcpus, mib = size
    cost.vcpu_seconds = _sized(cost.vcpu_seconds, cost.sandbox_seconds, seconds, vcpus)
    cost.memory_mib_seconds = _sized(cost.memory_mib_seconds, cost.sandbox_seconds, seconds, mib)
    cost.sandbox_seconds += seconds


def _sized(sized: int | None, before: int, seconds: int, size: int | None) -> int | None:
    """Return the seconds times their sizes, with those of another period.

    Args:
        sized: the same before; None if no size was known.
        before: the seconds before.
        seconds: the seconds of the period.
        size: its size, if that is known.
    """
    if size is not None:
        return (sized if sized is not None else before * size) + seconds * size
    return sized + round(sized / before * seconds) if sized is not None and before else sized


def _estimate(cost: CostStatus, prices: SandboxPrices) -> Decimal | None:
    """Return the estimated cents for the sandboxes; None if a price or the sizes are not known."""
    if prices.flat is not None:
        return Decimal(str(prices.flat)) * 100 * cost.sandbox_seconds
    priced = prices.per_vcpu or prices.per_gib
    if not priced or cost.vcpu_seconds is None or cost.memory_mib_seconds is None:
        return None
    of_vcpus = Decimal(str(prices.per_vcpu)) * cost.vcpu_seconds
    of_memory = Decimal(str(prices.per_gib)) * cost.memory_mib_seconds / _MIB_PER_GIB
    return (of_vcpus + of_memory) * 100


def _sum_up(cost: CostStatus, prices: SandboxPrices) -> None:
    """Set what follows from the amounts: the estimate and the total."""
    estimate = _estimate(cost, prices)
    cost.sandbox_cost = f"{estimate:.4f}".rstrip("0").rstrip(".") if estimate is not None else None
    if cost.list_cost is None and estimate is None:
        cost.total = None
        return
    cost.currency = cost.currency or "USD"
    total = (int(cost.list_cost or 0) + (estimate or Decimal(0))) / 100
    cost.total = money(total, cost.currency)


def money(amount: Decimal, currency: str) -> str:
    """Return an amount for people, as one word: `$1.26`, or `EUR1.26`."""
    return f"{'$' if currency == 'USD' else currency}{amount:.2f}"
