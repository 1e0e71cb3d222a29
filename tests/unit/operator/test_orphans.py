"""How long a sandbox without a resource is kept."""

from __future__ import annotations

import pytest
from managed_session_operator.resync.orphans import Orphans

from .clock import Clock

GRACE = 600.0
LOST = {"isandbox": "uid-1"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def orphans(clock: Clock) -> Orphans:
    return Orphans(GRACE, clock)


def test_a_sandbox_is_orphaned_after_two_resyncs_without_its_known_resource(orphans: Orphans) -> None:
    assert orphans.given_up({}, {"uid-1", "uid-2"}) == set()
    assert orphans.given_up(LOST, {"uid-2"}) == set()
    assert orphans.given_up(LOST, {"uid-2"}) == {"isandbox"}
    assert orphans.given_up(LOST, {"uid-2"}) == {"isandbox"}, "as long as its kill has not worked"


def test_a_sandbox_that_its_resource_does_not_use_needs_no_grace(orphans: Orphans) -> None:
    assert orphans.given_up(LOST, {"uid-1"}) == set()
    assert orphans.given_up(LOST, {"uid-1"}) == {"isandbox"}


def test_a_sandbox_with_an_unknown_resource_is_kept_for_the_grace_period(
    orphans: Orphans, clock: Clock
) -> None:
    for _ in range(20):
        assert orphans.given_up(LOST, set()) == set()
        clock.now += GRACE / 20
    assert orphans.given_up(LOST, set()) == {"isandbox"}


def test_a_sandbox_that_gets_its_resource_back_starts_again(orphans: Orphans, clock: Clock) -> None:
    orphans.given_up(LOST, set())
    clock.now += GRACE
    assert orphans.given_up({}, {"uid-1"}) == set()
    assert orphans.given_up(LOST, set()) == set()


def test_an_incomplete_list_neither_forgets_nor_orphans_missing_sandboxes(
    orphans: Orphans, clock: Clock
) -> None:
    assert orphans.given_up(LOST, {"uid-1"}) == set()
    assert orphans.given_up({}, set(), whole=False) == set()
    clock.now += GRACE
    assert orphans.given_up({}, set(), whole=False) == set(), "once found is not twice"
    assert orphans.given_up(LOST, set()) == {"isandbox"}
    assert orphans.given_up({}, set()) == set()
    assert orphans.given_up(LOST, set()) == set(), "a whole list without it begins anew"
