"""Which of two webhook events about one session counts."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.events import END_TYPES, RECORDED_TYPES, RUN_STARTED, is_newer
from managed_session_api.resource import EventStatus

events = st.builds(
    EventStatus,
    id=st.text("abc", min_size=1, max_size=3),
    type=st.sampled_from(sorted(RECORDED_TYPES)),
    created_at=st.integers(0, 3).map(lambda second: datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)),
)


def _event(type_: str, second: int) -> EventStatus:
    created = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
    return EventStatus(id=f"{type_}-{second}", type=type_, created_at=created)


def test_the_first_event_is_news() -> None:
    assert is_newer(_event(RUN_STARTED, 1), None)


def test_a_later_run_replaces_an_earlier_end_but_not_vice_versa() -> None:
    end = _event("session.status_terminated", 1)
    assert is_newer(_event(RUN_STARTED, 2), end)
    assert not is_newer(end, _event(RUN_STARTED, 2))


def test_at_one_instant_an_end_wins_in_either_order_of_arrival() -> None:
    run = _event(RUN_STARTED, 1)
    for type_ in END_TYPES:
        assert is_newer(_event(type_, 1), run)
        assert not is_newer(run, _event(type_, 1))


@given(events)
def test_the_same_event_again_changes_nothing(event: EventStatus) -> None:
    assert not is_newer(event, event)


@given(events, events)
def test_two_events_never_replace_each_other(one: EventStatus, other: EventStatus) -> None:
    assert not (is_newer(one, other) and is_newer(other, one))


@given(st.lists(events, min_size=1, max_size=6), st.randoms())
def test_the_recorded_event_does_not_depend_on_the_order_of_arrival(
    arrived: list[EventStatus], random: object
) -> None:
    def noted(sequence: list[EventStatus]) -> tuple[datetime, bool]:
        kept: EventStatus | None = None
        for event in sequence:
            if is_newer(event, kept):
                kept = event
        assert kept is not None
        return kept.created_at, kept.type in END_TYPES

    shuffled = list(arrived)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert noted(arrived) == noted(shuffled)
