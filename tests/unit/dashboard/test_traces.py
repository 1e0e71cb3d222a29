"""Which trace the page links to."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_dashboard.traces import trace_of

ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("work", "trace"),
    [
        ({}, ""),
        ({"trace": {"traceparent": f"00-{ID}-00f067aa0ba902b7-01"}}, ID),
        ({"trace": {"traceparent": f"00-{ID}-00f067aa0ba902b7-00"}}, ""),
        ({"trace": {"traceparent": "javascript:alert(1)"}}, ""),
    ],
)
def test_trace_is_that_of_a_turn_whose_trace_is_sent(work: Any, trace: str) -> None:
    assert trace_of({"status": {"work": work}}) == trace
