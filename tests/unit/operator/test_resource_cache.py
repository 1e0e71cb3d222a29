"""The newest known version of each resource."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from managed_session_operator.domain.resource_cache import ResourceCache

from .examples import NAME, SESSION, body


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store = ResourceCache()
    assert store.observe(body("a", version=9, status={"turns": 9}))
    assert not store.observe(body("a", version=8, status={"turns": 8}))
    assert not store.observe(body("a", version=9, status={"turns": 1}))
    resource = store.get("a")
    assert resource is not None
    assert resource.status.turns == 9
    assert store.observe(body("a", version=10, status={"turns": 10}))
    assert store.get("a") is not resource


def test_versions_are_numbers_and_not_text() -> None:
    store = ResourceCache()
    store.observe(body("a", version=99))
    assert store.observe(body("a", version=100))


@given(st.permutations([1, 2, 3, 4, 5]))
def test_the_newest_wins_in_any_order_of_arrival(versions: list[int]) -> None:
    store = ResourceCache()
    for version in versions:
        store.observe(body("a", version=version, status={"turns": version}))
    resource = store.get("a")
    assert resource is not None
    assert resource.status.turns == 5


def test_a_resource_is_parsed_once_per_version() -> None:
    store = ResourceCache()
    store.observe(body("a", version=1))
    assert store.get("a") is store.get("a")


def test_a_new_resource_of_the_same_name_is_not_removed_with_the_old_one() -> None:
    store = ResourceCache()
    store.observe(body("a", uid="old", version=1))
    store.observe(body("a", uid="new", version=2))
    store.remove("a", "old")
    assert store.get("a") is not None
    store.remove("a", "new")
    assert store.get("a") is None
    store.remove("a")


async def listed(*bodies: dict[str, Any]) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield each resource on a page of its own."""
    for each in bodies:
        yield [each]


async def test_a_new_list_adds_missed_resources_and_returns_vanished_ones() -> None:
    store = ResourceCache()
    store.observe(body("gone", version=1))
    store.observe(body("kept", version=5))
    assert await store.replace_all(listed(body("kept", version=4), body("new", version=6))) == {"gone"}
    assert sorted(store.names()) == ["kept", "new"]
    kept = store.get("kept")
    assert kept is not None
    assert kept.metadata.resource_version == "5"


async def test_a_resource_that_appears_while_listing_has_not_vanished() -> None:
    store = ResourceCache()
    store.observe(body("old", version=1))

    async def pages() -> AsyncIterator[list[dict[str, Any]]]:
        store.observe(body("created meanwhile", version=9))
        yield [body("old", version=1)]

    assert await store.replace_all(pages()) == set()
    assert store.get("created meanwhile") is not None


def test_an_invalid_resource_hides_only_itself() -> None:
    store = ResourceCache()
    store.observe(body("odd", uid="uid-odd", version=1, status={"sandbox": {"state": "FromAnotherVersion"}}))
    store.observe(body("plain", uid="uid-plain", version=2))
    assert store.get("odd") is None
    assert store.has("odd")
    assert store.get("plain") is not None
    assert store.identities() == {"uid-odd", "uid-plain"}
    store.observe(body("odd", uid="uid-odd", version=3))
    assert store.get("odd") is not None


def test_a_name_reused_for_another_session_serves_only_that_session() -> None:
    store = ResourceCache()
    store.observe(body("a", uid="1", version=1, session="sesn_1"))
    store.observe(body("a", uid="2", version=2, session="sesn_2"))
    assert store.serving_name("sesn_1") is None
    assert store.serving_name("sesn_2") == "a"
    store.remove("a")
    assert store.serving_name("sesn_2") is None


def test_the_oldest_of_several_resources_serves_the_session() -> None:
    store = ResourceCache()
    store.observe(body("a", uid="1", version=3, created="2026-01-02T00:00:00Z"))
    store.observe(body("b", uid="2", version=2, created="2026-01-01T00:00:00Z"))
    store.observe(body("c", uid="3", version=1, created="2026-01-03T00:00:00Z"))
    assert store.serving_name(SESSION) == "b"
    store.remove("b")
    assert store.serving_name(SESSION) == "a"


@given(st.permutations([NAME, "a", "b"]))
def test_of_resources_of_the_same_second_the_webhooks_one_serves(order: list[str]) -> None:
    store = ResourceCache()
    for version, name in enumerate(order, start=1):
        store.observe(body(name, uid=name, version=version))
    assert store.serving_name(SESSION) == NAME
    store.remove(NAME)
    assert store.serving_name(SESSION) == "a"


def test_a_session_without_a_resource_has_no_serving_one() -> None:
    store = ResourceCache()
    assert store.serving_name(SESSION) is None
    store.observe(body("a"))
    store.remove("a")
    assert store.serving_name(SESSION) is None


def test_managed_fields_are_not_cached_and_the_event_is_unchanged() -> None:
    store = ResourceCache()
    event = body("a", managedFields=[{"manager": "kubectl"}])
    store.observe(event)
    assert event["metadata"]["managedFields"]
    assert len(store) == 1
    assert store.names() == ["a"]


def test_sessions_of_a_shared_sandbox_are_found_as_their_status_changes() -> None:
    store = ResourceCache()
    store.observe(body("a", version=1, status={"sandbox": {"sharedBy": "owner"}}))
    store.observe(body("b", version=2, status={"sandbox": {"sharedBy": "owner"}}))
    assert store.sharing("owner") == {"a", "b"}
    store.observe(body("a", version=3, status={"sandbox": {"sharedBy": "other"}}))
    assert (store.sharing("owner"), store.sharing("other")) == ({"b"}, {"a"})
    store.observe(body("a", version=4, status={"sandbox": {}}))
    store.remove("b")
    assert (store.sharing("owner"), store.sharing("other")) == (set(), set())


def test_only_the_resources_that_were_used_last_are_kept_parsed() -> None:
    store = ResourceCache(most_parsed=2)
    for name in "abc":
        store.observe(body(name, uid=name, status={"turns": 3}))
    first = store.get("a")
    assert first is not None
    assert (first.metadata.name, first.status.turns) == ("a", 3)
    assert store.get("a") is first, "kept, because it was used last"
    assert all(store.get(name) is not None for name in "cba"), "each is parsed again"
    assert store.get("a") == first


def test_the_newest_version_is_that_of_a_resource_that_exists() -> None:
    store = ResourceCache()
    store.observe(body("a", version=5))
    store.observe(body("b", uid="b", version=9))
    store.remove("b")
    assert store.newest_version() == 5
