"""How long a sandbox without a resource is kept."""

from __future__ import annotations

import pytest
from managed_session_operator.orphans import Orphans

from .clock import Clock

GRACE = 600.0
LOST = {"isandbox": "uid-1"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def orphans(clock: Clock) -> Orphans:
    return Orphans(GRACE, clock)


def test_one_whose_resource_was_seen_is_given_up_by_the_second_sweep_without_it(orphans: Orphans) -> None:
    assert orphans.given_up({}, {"uid-1", "uid-2"}) == set()
    assert orphans.given_up(LOST, {"uid-2"}) == set()
    assert orphans.given_up(LOST, {"uid-2"}) == {"isandbox"}
    assert orphans.given_up(LOST, {"uid-2"}) == {"isandbox"}, "as long as its kill has not worked"


def test_one_whose_resource_is_there_and_has_no_use_for_it_needs_no_grace(orphans: Orphans) -> None:
    assert orphans.given_up(LOST, {"uid-1"}) == set()
    assert orphans.given_up(LOST, {"uid-1"}) == {"isandbox"}


def test_one_whose_resource_was_never_seen_is_kept_for_the_grace_period(
    orphans: Orphans, clock: Clock
) -> None:
    for _ in range(20):
        assert orphans.given_up(LOST, set()) == set()
        clock.now += GRACE / 20
    assert orphans.given_up(LOST, set()) == {"isandbox"}


def test_one_that_has_got_its_resource_back_begins_anew(orphans: Orphans, clock: Clock) -> None:
    orphans.given_up(LOST, set())
    clock.now += GRACE
    assert orphans.given_up({}, {"uid-1"}) == set()
    assert orphans.given_up(LOST, set()) == set()
