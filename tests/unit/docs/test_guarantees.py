"""Every guarantee names its tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
PROMISES = re.findall(r"^## (\d+\. .*?)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
TEST = re.compile(r"^- `(tests/[\w/]+\.py)`$", re.MULTILINE)


def test_there_are_nine_guarantees() -> None:
    assert [title.split(".")[0] for title, _ in PROMISES] == list("123456789")


@pytest.mark.parametrize(("title", "text"), PROMISES, ids=[title for title, _ in PROMISES])
def test_guarantee_is_held_by_tests_that_exist(title: str, text: str) -> None:
    named = TEST.findall(text)
    assert named, f"no test is named for: {title}"
    for path in named:
        assert re.search(r"def test_|^test_\w+ = ", (ROOT / path).read_text(), re.MULTILINE), path
