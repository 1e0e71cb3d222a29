"""The reasons of conditions, and their documentation."""

from __future__ import annotations

import re

import pytest
from managed_session_api.conditions import Reason
from managed_session_api.reasons import REASONS


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_in_camel_case(reason: Reason) -> None:
    assert re.fullmatch(r"([A-Z][a-z0-9]*)+", reason.value)


@pytest.mark.parametrize("reason", list(REASONS))
def test_a_documented_reason_says_what_it_means_and_what_to_do(reason: Reason) -> None:
    assert REASONS[reason].meaning.endswith(".")
    assert REASONS[reason].remedy


def test_every_reason_is_documented() -> None:
    assert set(REASONS) == set(Reason)
