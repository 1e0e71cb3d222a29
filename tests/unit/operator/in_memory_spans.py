"""What was sent of the traces of turns, in memory. It accepts only whole trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from managed_session_operator.domain.span import Span


@dataclass
class InMemorySpans:
    """The newest spans of each trace."""

    traces: dict[int, list[Span]] = field(default_factory=dict)
    samples: bool = True

    def sampled(self, trace_id: int) -> bool:
        """Return whether traces are wanted."""
        assert trace_id
        return self.samples

    def send(self, trace_id: int, spans: Sequence[Span]) -> None:
        """Keep a trace."""
        assert_one_tree(spans)
        self.traces[trace_id] = list(spans)


def assert_one_tree(spans: Sequence[Span]) -> None:
    """The root comes first, each parent before its children, and each child lies within its parent."""
    known: dict[int, Span] = {}
    for span in spans:
        assert span.span_id not in known
        assert span.start <= span.end
        if span.parent_id is None:
            assert not known, "one root"
        else:
            parent = known[span.parent_id]
            assert parent.start <= span.start
            assert span.end <= parent.end
        known[span.span_id] = span
