"""`managed-sessions cost`: what the sessions have cost, from their resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import yaml
from managed_session_api.names import API_VERSION, KIND
from managed_session_api.resource import CostOfDay, CostStatus, Metadata, Model, Spec, Status
from pydantic import Field, ValidationError
from rich.console import Console

from managed_session_cli.cluster import Cluster, Object
from managed_session_cli.errors import CommandError
from managed_session_cli.installation import Installation
from managed_session_cli.options import CostBy as By
from managed_session_cli.options import CostOutput as Output

_MOST_DAYS = 31
"""Days that a resource keeps."""


@dataclass(frozen=True)
class Options:
    """The command's options.

    Attributes:
        by: what each row stands for.
        since: only what was recorded on this day (UTC) and later.
        output: the report's form.
    """

    by: By
    since: date | None = None
    output: Output = Output.TABLE


class _Session(Model):
    """The part of a resource that matters here."""

    metadata: Metadata
    spec: Spec
    status: Status = Field(default_factory=Status)


@dataclass(frozen=True)
class Row:
    """The cost of some sessions. Amounts are in cents.

    Attributes:
        key: the session, class, agent or day.
        sandbox_cost: the estimate for the sandboxes; None if none of the sessions has one.
    """

    key: str
    currency: str = "USD"
    sessions: int = 0
    list_cost: Decimal = Decimal(0)
    sandbox_cost: Decimal | None = None
    active_seconds: int = 0
    sandbox_seconds: int = 0

    @property
    def total(self) -> Decimal:
        """Both amounts together."""
        return self.list_cost + (self.sandbox_cost or 0)

    def plus(self, other: Row) -> Row:
        """Return the sum of two rows, under this row's key."""
        known = [each for each in (self.sandbox_cost, other.sandbox_cost) if each is not None]
        return replace(
            self,
            sessions=self.sessions + other.sessions,
            list_cost=self.list_cost + other.list_cost,
            sandbox_cost=sum(known, Decimal(0)) if known else None,
            active_seconds=self.active_seconds + other.active_seconds,
            sandbox_seconds=self.sandbox_seconds + other.sandbox_seconds,
        )

    def to_json(self, name: str) -> dict[str, Any]:
        """Return the row's JSON form, with its key under `name`. Amounts are text, as in the resource."""
        return {
            name: self.key,
            "currency": self.currency,
            "sessions": self.sessions,
            "listCost": f"{self.list_cost:f}",
            **({"sandboxCost": _plain(self.sandbox_cost)} if self.sandbox_cost is not None else {}),
            "activeSeconds": self.active_seconds,
            "sandboxSeconds": self.sandbox_seconds,
            "total": money(self.total, self.currency),
        }


def money(cents: Decimal, currency: str) -> str:
    """Return an amount for people, as `status.cost.total` has it."""
    return f"{'$' if currency == 'USD' else currency}{cents / 100:,.2f}"


def _plain(amount: Decimal) -> str:
    return f"{amount:.4f}".rstrip("0").rstrip(".")


def parse_since(text: str, today: date) -> date:
    """Return the first day of a period: `7d` for today and the six days before, or a date.

    Raises:
        CommandError: it is neither, or lies in the future.
    """
    days = re.fullmatch(r"([1-9][0-9]{0,3})d", text)
    if days is not None:
        return today - timedelta(days=int(days[1]) - 1)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--since {text}: pass a number of days, such as 7d, or a date, such as 2026-11-01. Costs are "
            "recorded by day."
        ) from None
    if day > today:
        raise CommandError(f"--since {text} is in the future. Days are in UTC.")
    return day


def report(resources: Iterable[Object], options: Options) -> list[Row]:
    """Return the rows: days in their order, everything else by cost, the highest first."""
    rows: dict[tuple[str, str], Row] = {}
    for resource in resources:
        try:
            session = _Session.model_validate(resource)
        except ValidationError:
            # Only another version can read it.
            continue
        for row in _rows_of(session, options):
            at = (row.key, row.currency)
            rows[at] = rows[at].plus(row) if at in rows else row
    if options.by is By.DAY:
        return sorted(rows.values(), key=lambda row: row.key)
    return sorted(rows.values(), key=lambda row: (-row.total, -row.sandbox_seconds, row.key))


def _rows_of(session: _Session, options: Options) -> Iterator[Row]:
    """Return the session's own rows: one, or one for each day."""
    cost = session.status.cost
    if cost is None:
        return
    currency, since = cost.currency or "USD", f"{options.since:%Y-%m-%d}" if options.since else ""
    days = [each for each in cost.days if each.day >= since]
    key = _key(session, options.by)
    if options.by is By.DAY:
        for day in days:
            yield _of_day(cost, day, Row(day.day, currency, 1))
        return
    if options.since is None:
        estimate = Decimal(cost.sandbox_cost) if cost.sandbox_cost is not None else None
        listed = Decimal(cost.list_cost or 0)
        yield Row(key, currency, 1, listed, estimate, cost.active_seconds, cost.sandbox_seconds)
    elif days:
        row = Row(key, currency, 1)
        for day in days:
            row = row.plus(_of_day(cost, day, Row(key, currency)))
        yield row


def _of_day(cost: CostStatus, day: CostOfDay, row: Row) -> Row:
    """Return the row with what a day has cost. The estimate is the day's part of the session's."""
    estimate = None
    if cost.sandbox_cost is not None and cost.sandbox_seconds:
        estimate = Decimal(cost.sandbox_cost) * day.sandbox_seconds / cost.sandbox_seconds
    return replace(
        row,
        list_cost=Decimal(day.list_cost),
        sandbox_cost=estimate,
        active_seconds=day.active_seconds,
        sandbox_seconds=day.sandbox_seconds,
    )


def _key(session: _Session, by: By) -> str:
    match by:
        case By.CLASS:
            recorded = session.status.session_class
            return recorded.name if recorded is not None else ""
        case By.AGENT:
            return session.spec.agent_id or ""
        case _:
            return session.spec.session_id


def cost(cluster: Cluster, installation: Installation, options: Options, console: Console) -> None:
    """Print what the sessions of the namespace have cost (raises CommandError)."""
    rows = report(cluster.list(API_VERSION, KIND, installation.namespace), options)
    if options.output is not Output.TABLE:
        console.print(_document(rows, options), markup=False, end="")
        return
    if not rows:
        period = f" since {options.since}" if options.since else ""
        console.print(
            f"No costs are recorded in the namespace {installation.namespace}{period}.", markup=False
        )
        return
    for line in table(rows, options.by):
        console.print(line, markup=False)
    oldest_kept = datetime.now(UTC).date() - timedelta(days=_MOST_DAYS - 1)
    if options.since is not None and options.since < oldest_kept:
        console.print(
            f"A resource keeps the newest {_MOST_DAYS} days with costs, so older ones may be missing.",
            markup=False,
        )


def _totals(rows: list[Row]) -> list[Row]:
    sums: dict[str, Row] = {}
    for row in rows:
        sums[row.currency] = sums.get(row.currency, Row("total", row.currency)).plus(row)
    return list(sums.values())


def _document(rows: list[Row], options: Options) -> str:
    document: dict[str, Any] = {
        "by": str(options.by),
        **({"since": f"{options.since}"} if options.since else {}),
        "rows": [row.to_json(str(options.by)) for row in rows],
    }
    if options.output is Output.YAML:
        return yaml.safe_dump(document, sort_keys=False)
    return json.dumps(document, indent=2) + "\n"


def table(rows: list[Row], by: By) -> list[str]:
    """Return the lines of the table. Without an estimate there is no column for it."""
    estimated = any(row.sandbox_cost is not None for row in rows)
    head = [by.upper(), "SESSIONS", "LIST-COST", "SANDBOX-COST", "TOTAL", "ACTIVE", "SANDBOX-TIME"]
    cells = [head]
    totals = _totals(rows) if len(rows) > 1 else []
    for row in [*rows, *totals]:
        # A session of several days is in several of these rows.
        sessions = "" if by is By.DAY and row in totals else str(row.sessions)
        estimate = money(row.sandbox_cost, row.currency) if row.sandbox_cost is not None else "-"
        cells.append(
            [
                row.key or "<none>",
                sessions,
                money(row.list_cost, row.currency),
                estimate,
                money(row.total, row.currency),
                duration(row.active_seconds),
                duration(row.sandbox_seconds),
            ]
        )
    hidden = set() if estimated else {head.index("SANDBOX-COST"), head.index("TOTAL")}
    shown = [[cell for at, cell in enumerate(line) if at not in hidden] for line in cells]
    widths = [max(len(line[at]) for line in shown) for at in range(len(shown[0]))]
    return [
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in shown
    ]


def duration(seconds: int) -> str:
    """Return a duration in the way of kubectl: its two largest units."""
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    for at, (name, length) in enumerate(units):
        if seconds >= length or length == 1:
            whole, rest = divmod(seconds, length)
            following = units[at + 1] if at + 1 < len(units) else None
            part = f"{rest // following[1]}{following[0]}" if following and rest // following[1] else ""
            return f"{whole}{name}{part}"
    return "0s"
