"""Every row of the fault matrix, and what the table as a whole has to cover."""

from __future__ import annotations

import pytest

from . import verdict
from .row import Row
from .scene import Scene
from .table import ROWS


@pytest.mark.timeout(180)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.family}: {row.name}")
async def test_promises_hold_when(row: Row, scene: Scene) -> None:
    await row.play(scene)
    await scene.calm()
    await verdict.check(scene, row.outcome)


def test_rows_have_names_of_their_own() -> None:
    named = [(row.family, row.name) for row in ROWS]
    assert len(set(named)) == len(named)
