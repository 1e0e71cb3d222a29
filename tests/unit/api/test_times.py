"""Times in JSON, and claims that sort by age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from managed_session_api.times import as_utc, claim_name, to_wire

instants = st.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(instants, offsets)
def test_a_time_stays_the_same_in_any_zone(instant: datetime, zone: timezone) -> None:
    assert to_wire(instant.astimezone(zone)) == to_wire(instant)
    assert datetime.fromisoformat(to_wire(instant)) == instant


def test_a_time_without_a_zone_is_utc() -> None:
    instant = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert as_utc(instant.replace(tzinfo=None)) == instant


@given(instants, instants)
def test_times_as_text_sort_by_age(one: datetime, other: datetime) -> None:
    assert (to_wire(one) < to_wire(other)) == (one < other)


@given(instants, instants)
def test_claims_of_different_times_sort_by_age(one: datetime, other: datetime) -> None:
    assert (claim_name(one) < claim_name(other)) == (one < other)


@given(instants, instants)
def test_a_claim_sorts_after_the_previous_one_even_if_the_clock_went_back(
    now: datetime, before: datetime
) -> None:
    older = claim_name(before)
    assert claim_name(now, after=older) > older


def test_claims_of_the_same_time_stay_in_order() -> None:
    instant = datetime(2026, 11, 23, 16, 54, 1, 123456, tzinfo=UTC)
    claims = [claim_name(instant)]
    for _ in range(50):
        claims.append(claim_name(instant, after=claims[-1]))
    assert claims == sorted(set(claims))


def test_a_claim_is_a_safe_file_name() -> None:
    assert claim_name(datetime(2026, 11, 23, 16, 54, 1, 123456, tzinfo=UTC)) == "20261123T165401.123456Z"


def test_the_claim_after_the_last_microsecond_of_a_second_is_in_the_next_second() -> None:
    last = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    older = claim_name(last)
    assert claim_name(last, after=older) > older
