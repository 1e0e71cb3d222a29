"""Every sentence of the guide is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "guide.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| The guide")
]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_the_guides_sections_have_their_sentences() -> None:
    assert len(ROWS) >= 17
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_sentence_is_held_by_tests_that_exist(row: list[str]) -> None:
    _, _, tests = row
    named = TEST.findall(tests)
    assert len(named) == len(tests.split(", ")), "each entry is FILE::TEST"
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name
