"""Every row of the fault matrix, and what the table as a whole has to cover."""

from __future__ import annotations

import pytest

from . import verdict
from .row import Row
from .scenario import Scenario
from .table import ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.family}: {row.name}")
async def test_promises_hold_when(row: Row, scenario: Scenario) -> None:
    await row.play(scenario)
    await scenario.calm()
    await verdict.check(scenario, row.outcome, exact_seconds=row.cuts is not None)


def test_rows_have_names_of_their_own() -> None:
    named = [(row.family, row.name) for row in ROWS]
    assert len(set(named)) == len(named)
