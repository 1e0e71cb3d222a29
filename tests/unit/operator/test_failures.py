"""How long a failed step rests."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.conditions import Reason
from managed_session_operator.failures import Failure, Kind, retry_delay

kinds = st.sampled_from(list(Kind))


def _failure(kind: Kind, retry_after: float | None = None) -> Failure:
    return Failure(kind, Reason.SANDBOX_UNREACHABLE, "no answer", retry_after)


@given(kinds)
def test_delays_grow_and_stay_bounded(kind: Kind) -> None:
    delays = [retry_delay(_failure(kind), consecutive) for consecutive in range(1, 30)]
    assert all(earlier <= later for earlier, later in itertools.pairwise(delays))
    assert 0 < delays[0] <= 10
    assert delays[-1] <= 120


@given(kinds, st.integers(1, 1000), st.floats(0.001, 10))
def test_no_number_of_failures_is_too_large_and_no_step_is_repeated_at_once(
    kind: Kind, consecutive: int, scale: float
) -> None:
    assert 0 < retry_delay(_failure(kind), consecutive, scale) <= 1200


@given(kinds, st.integers(1, 50), st.floats(0, 600))
def test_what_the_outside_asked_for_is_kept(kind: Kind, consecutive: int, seconds: float) -> None:
    assert retry_delay(_failure(kind, seconds), consecutive, 0.01) >= seconds


def test_quota_and_people_are_given_more_time_than_a_hiccup() -> None:
    first = {kind: retry_delay(_failure(kind), 1) for kind in Kind}
    assert first[Kind.RETRY] < first[Kind.QUOTA] < first[Kind.PERSON]


@pytest.mark.parametrize("kind", list(Kind))
def test_a_failure_reads_as_reason_and_message(kind: Kind) -> None:
    assert str(_failure(kind)) == "SandboxUnreachable: no answer"
