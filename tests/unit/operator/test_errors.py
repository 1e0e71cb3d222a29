"""How long a failed step waits for its repetition."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.conditions import Reason
from managed_session_operator.domain.errors import ErrorKind, OperationError, retry_delay

kinds = st.sampled_from(list(ErrorKind))


def _failure(kind: ErrorKind, retry_after: float | None = None) -> OperationError:
    return OperationError(kind, Reason.SANDBOX_UNREACHABLE, "no answer", retry_after)


@given(kinds)
def test_delays_grow_and_stay_bounded(kind: ErrorKind) -> None:
    delays = [retry_delay(_failure(kind), consecutive) for consecutive in range(1, 30)]
    assert all(earlier <= later for earlier, later in itertools.pairwise(delays))
    assert 0 < delays[0] <= 10
    assert delays[-1] <= 120


@given(kinds, st.integers(1, 1000), st.floats(0.001, 10))
def test_delays_work_for_any_number_of_failures_and_are_never_zero(
    kind: ErrorKind, consecutive: int, scale: float
) -> None:
    assert 0 < retry_delay(_failure(kind), consecutive, scale) <= 1200


@given(kinds, st.integers(1, 50), st.floats(0, 600))
def test_a_requested_delay_is_kept(kind: ErrorKind, consecutive: int, seconds: float) -> None:
    assert retry_delay(_failure(kind, seconds), consecutive, 0.01) >= seconds


def test_quota_and_user_action_get_more_time_than_a_temporary_error() -> None:
    first = {kind: retry_delay(_failure(kind), 1) for kind in ErrorKind}
    assert first[ErrorKind.TRANSIENT] < first[ErrorKind.RATE_LIMITED] < first[ErrorKind.USER_ACTION]


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_a_failure_reads_as_reason_and_message(kind: ErrorKind) -> None:
    assert str(_failure(kind)) == "SandboxUnreachable: no answer"
