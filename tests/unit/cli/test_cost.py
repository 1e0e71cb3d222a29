"""`managed-sessions cost` adds up what the resources say."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from managed_session_cli.cost import Options, duration, parse_since, report, table
from managed_session_cli.errors import CommandError
from managed_session_cli.options import CostBy as By

TODAY = date(2026, 11, 29)


def resource(
    session: str,
    *days: tuple[str, int, int],
    agent: str | None = "agent_1",
    of: str | None = None,
    **cost: Any,
) -> dict[str, Any]:
    """A resource with costs by day: (day, cents, seconds)."""
    listed, seconds = sum(day[1] for day in days), sum(day[2] for day in days)
    kept = [{"day": day, "listCost": str(cents), "sandboxSeconds": ran} for day, cents, ran in days]
    status: dict[str, Any] = {
        "cost": {"listCost": str(listed), "sandboxSeconds": seconds, "currency": "USD", "days": kept, **cost}
    }
    if of is not None:
        status["class"] = {"name": of, "generation": 1}
    return {
        "metadata": {"name": session},
        "spec": {"sessionID": session, **({"agentID": agent} if agent else {})},
        "status": status,
    }


SESSIONS = [
    resource("sesn_1", ("2026-11-28", 100, 30), ("2026-11-29", 26, 10), of="gold", sandboxCost="4"),
    resource("sesn_2", ("2026-11-29", 200, 50), agent="agent_2"),
    resource("sesn_3", ("2026-10-01", 1, 5), agent=None),
    {"metadata": {"name": "new"}, "spec": {"sessionID": "sesn_4"}},
    {"metadata": {"name": "odd"}, "spec": {"sessionID": 5}},
]


def rows(by: By, since: str | None = None) -> list[tuple[str, int, int, int]]:
    first = parse_since(since, TODAY) if since else None
    found = report(SESSIONS, Options(by, first))
    return [(row.key, row.sessions, int(row.list_cost), row.sandbox_seconds) for row in found]


def test_the_dearest_comes_first() -> None:
    assert rows(By.SESSION) == [("sesn_2", 1, 200, 50), ("sesn_1", 1, 126, 40), ("sesn_3", 1, 1, 5)]
    assert rows(By.AGENT) == [("agent_2", 1, 200, 50), ("agent_1", 1, 126, 40), ("", 1, 1, 5)]
    assert rows(By.CLASS) == [("", 2, 201, 55), ("gold", 1, 126, 40)]


def test_days_are_in_their_order_and_begin_where_they_are_asked_for() -> None:
    assert rows(By.DAY) == [("2026-10-01", 1, 1, 5), ("2026-11-28", 1, 100, 30), ("2026-11-29", 2, 226, 60)]
    assert rows(By.DAY, "2d") == [("2026-11-28", 1, 100, 30), ("2026-11-29", 2, 226, 60)]
    assert rows(By.SESSION, "2026-11-29") == [("sesn_2", 1, 200, 50), ("sesn_1", 1, 26, 10)]
    assert rows(By.CLASS, "1d") == [("", 1, 200, 50), ("gold", 1, 26, 10)]


def test_an_estimate_is_divided_among_the_days() -> None:
    found = report(SESSIONS, Options(By.DAY, date(2026, 11, 28)))
    assert [row.sandbox_cost for row in found] == [Decimal(3), Decimal(1)]
    assert [row.total for row in found] == [Decimal(103), Decimal(227)]


def test_without_an_estimate_the_table_has_no_column_for_it() -> None:
    [head, line] = table(report(SESSIONS[1:2], Options(By.AGENT)), By.AGENT)
    assert head.split() == ["AGENT", "SESSIONS", "LIST-COST", "ACTIVE", "SANDBOX-TIME"]
    assert line.split() == ["agent_2", "1", "$2.00", "0s", "50s"]


def test_the_table_ends_with_the_sum() -> None:
    lines = table(report(SESSIONS, Options(By.AGENT)), By.AGENT)
    assert lines[0].split()[3:5] == ["SANDBOX-COST", "TOTAL"]
    assert lines[-2].split()[0] == "<none>"
    assert lines[-1].split() == ["total", "3", "$3.27", "$0.04", "$3.31", "0s", "1m35s"]


def test_other_currencies_are_never_added_up() -> None:
    other = resource("sesn_9", ("2026-11-29", 50, 1), currency="EUR")
    lines = table(report([*SESSIONS[:2], other], Options(By.DAY, TODAY)), By.DAY)
    assert [line.split()[-5] for line in lines if line.startswith("total")] == ["$2.26", "EUR0.50"]


@pytest.mark.parametrize(
    ("text", "first"),
    [("1d", TODAY), ("7d", date(2026, 11, 23)), ("2026-11-01", date(2026, 11, 1)), ("2026-11-29", TODAY)],
)
def test_a_period_is_a_number_of_days_or_begins_on_a_date(text: str, first: date) -> None:
    assert parse_since(text, TODAY) == first


@pytest.mark.parametrize("text", ["24h", "0d", "yesterday", "2026-13-01", "2026-11-30", ""])
def test_another_period_is_refused_with_what_to_pass(text: str) -> None:
    with pytest.raises(CommandError, match=r"--since"):
        parse_since(text, TODAY)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (95, "1m35s"), (3600, "1h"), (93_600, "1d2h"), (86_460, "1d")],
)
def test_a_duration_has_its_two_largest_units(seconds: int, text: str) -> None:
    assert duration(seconds) == text
