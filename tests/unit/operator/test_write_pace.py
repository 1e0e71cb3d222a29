"""A change that concerns thousands of resources is written at a bounded rate, and each of them in the end."""

from __future__ import annotations

import heapq

from hypothesis import given
from hypothesis import strategies as st
from managed_session_operator.domain.write_pace import WritePace


def test_two_thousand_resources_are_written_within_minutes_and_never_in_a_burst() -> None:
    pace, written = WritePace(), list[float]()
    due = [(0.0, f"sesn-{number}") for number in range(2000)]
    heapq.heapify(due)
    while due:
        now, name = heapq.heappop(due)
        again = pace.wait(name, now)
        if again is None:
            written.append(now)
        else:
            heapq.heappush(due, (now + again, name))
    assert len(written) == 2000
    assert max(written) < 180
    for start in range(180):
        assert sum(start <= at < start + 1 for at in written) <= 101


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_in_no_second_more_passes_than_twice_the_rate(times: list[float]) -> None:
    pace = WritePace(10)
    passed = [at for at in sorted(times) if pace.wait("sesn", at) is None]
    assert all(sum(start <= at < start + 1 for at in passed) <= 20 for start in passed)
