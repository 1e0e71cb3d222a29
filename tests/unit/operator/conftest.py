"""Fixtures of the operator's unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .play import Play


@pytest.fixture
def play() -> Iterator[Play]:
    made = Play()
    yield made
    for process in (*made.gone, made.operator):
        process.end()
    made.loop.close()
