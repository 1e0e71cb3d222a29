"""The classes that this process knows, which sessions a change concerns, and what the classes report."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.controller.class_changes import ClassChanges, concerned
from managed_session_operator.controller.class_feed import ClassFeed
from managed_session_operator.controller.class_reports import ClassReports
from managed_session_operator.domain.class_cache import ClassCache
from managed_session_operator.domain.class_choice import SessionFacts
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.steps.context import Context

from ...support.merge_patch import merge_patch
from ..deploy.schemas import definition, fields_of
from .contexts import context
from .examples import ENVIRONMENT, RUNNING, body, class_body, session, summary, work

RECORDED = {"class": {"name": "gold", "uid": "uid-gold", "generation": 7}}


def test_only_a_new_spec_counts_as_a_change() -> None:
    cache = ClassCache()
    assert cache.observe(class_body(version=5))
    assert not cache.observe(class_body(version=5))
    assert not cache.observe(class_body(version=6, status={"sessions": 3})), "our own write of the status"
    assert not cache.observe(class_body(version=4, generation=6)), "an older version"
    assert cache.observe(class_body(version=7, generation=8))
    found = cache.get("gold")
    assert found is not None
    assert found.metadata.generation == 8


def test_a_deleted_class_serves_nobody_even_if_another_has_its_name() -> None:
    cache, resource = ClassCache(), session(RECORDED)
    cache.observe(class_body())
    assert cache.serving(resource) is not None
    assert not cache.remove("gold", "uid-of-another")
    assert cache.remove("gold", "uid-gold")
    assert cache.serving(resource) is None
    cache.observe(class_body(uid="uid-new", version=9))
    assert cache.serving(resource) is None


def test_a_list_tells_what_is_new_changed_and_gone() -> None:
    cache = ClassCache()
    for name in ("kept", "changed", "gone"):
        cache.observe(class_body(name, version=1))
    known = cache.names()
    cache.observe(class_body("later", version=4))
    listed = [
        class_body("kept"),
        class_body("changed", version=2, generation=8),
        class_body("new", version=3),
    ]
    assert cache.replace_all(listed, known) == {"changed", "gone", "new"}
    assert cache.names() == {"kept", "changed", "new", "later"}


def test_a_class_of_another_version_matches_nobody_and_the_others_do() -> None:
    cache = ClassCache()
    cache.observe(class_body("odd", spec={"precedence": "high"}))
    cache.observe(class_body("usual", spec={"precedence": -1}))
    choice = cache.choose(session(), SessionFacts(ENVIRONMENT))
    assert choice.chosen is cache.get("usual")
    assert list(cache.unreadable()) == ["odd"]
    cache.observe(class_body("odd", version=2))
    assert not cache.unreadable()


def test_a_deleted_class_does_not_come_back_with_an_older_answer() -> None:
    cache, changed = ClassCache(), list[str]()
    feed = ClassFeed(cache, Store(), changed.append, 0.0)
    feed.observe(None, class_body(version=5))
    feed.observe("DELETED", class_body(version=7))
    assert not cache.observe(class_body(version=6)), "the answer to a write that was sent before"
    assert cache.replace_all([class_body(version=5)], set()) == set(), "a list that was sent before"
    assert not cache.names()
    feed.observe("ADDED", class_body(version=8, uid="uid-new"))
    assert cache.names() == {"gold"}


def ready(reason: str) -> dict[str, Any]:
    since = "2026-11-23T16:00:00Z"
    return {"type": "Ready", "status": "False", "reason": reason, "lastTransitionTime": since}


def test_a_change_concerns_the_sessions_of_the_class_and_those_that_are_held_back() -> None:
    silver = {"class": {"name": "silver", "generation": 1}}
    resources = [
        summary(RECORDED, name="idle"),
        summary({**RECORDED, "work": work(acknowledged=1)}, name="running"),
        summary(silver, name="of-another"),
        summary(name="without"),
        summary({"conditions": [ready("AmbiguousClass")]}, name="held"),
        summary({**silver, "conditions": [ready("BudgetReached")]}, name="spent"),
    ]
    found = {name: can_wait for can_wait, name in concerned(resources, "gold")}
    assert found == {"idle": True, "running": False, "held": False, "spent": False}


async def test_two_thousand_sessions_are_reconciled_a_few_at_a_time_and_running_ones_first() -> None:
    idle = [summary(RECORDED, name=f"idle-{number}") for number in range(2000)]
    running = summary({**RECORDED, "work": work(acknowledged=1)}, name="running")
    queued: list[str] = []
    changes = ClassChanges(lambda: [*idle, running], queued.append)
    task = asyncio.create_task(changes.run())
    changes.changed("gold")
    changes.changed("gold")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert queued[0] == "running"
    assert len(queued) == len(set(queued)) <= 10
    task.cancel()
    changes.clear()


class Store:
    """The classes of an API server."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.bodies = {each["metadata"]["name"]: each for each in bodies}
        self.failing = 0
        self.writes: list[tuple[str, dict[str, Any]]] = []

    async def list(self) -> list[dict[str, Any]]:
        if self.failing:
            self.failing -= 1
            raise OperationError(ErrorKind.TRANSIENT, "KubernetesCallFailed", "no answer")  # type: ignore[arg-type]
        return [*self.bodies.values()]

    async def patch_status(self, name: str, version: str, status: dict[str, Any]) -> dict[str, Any]:
        assert version == self.bodies[name]["metadata"]["resourceVersion"]
        newer = {"status": status, "metadata": {"resourceVersion": str(int(version) + 1)}}
        self.bodies[name] = merge_patch(self.bodies[name], newer)
        self.writes.append((name, status))
        return self.bodies[name]


async def test_the_first_list_is_repeated_until_it_succeeds() -> None:
    store, cache, changed = Store(class_body()), ClassCache(), list[str]()
    store.failing = 3
    await ClassFeed(cache, store, changed.append, 0.0).list()
    assert (cache.names(), changed) == ({"gold"}, ["gold"])


def test_the_watch_tells_of_changes_and_deletions() -> None:
    cache, changed = ClassCache(), list[str]()
    feed = ClassFeed(cache, Store(), changed.append, 0.0)
    feed.observe(None, class_body())
    feed.observe("MODIFIED", class_body(version=2, status={"sessions": 1}))
    feed.observe("MODIFIED", class_body(version=3, generation=8))
    feed.observe("DELETED", class_body(version=4, generation=8))
    assert changed == ["gold", "gold", "gold"]
    assert not cache.names()


class Ticking:
    """A clock that a test moves."""

    def __init__(self, real: Any) -> None:
        self.seconds = 0.0
        self._real = real

    def now(self) -> Any:
        return self._real.now()

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def known() -> Context:
    made = context(capacity=Capacity(5, 80))
    made.clock = Ticking(made.clock)
    return made


async def report(known: Context, store: Store, freed: list[str] | None = None) -> ClassReports:
    known.classes.cache.replace_all(await store.list(), set())
    reports = ClassReports(known, store, (freed if freed is not None else []).append)
    await reports.report()
    return reports


async def test_a_class_reports_its_use_and_nothing_twice(known: Context) -> None:
    known.records.cache.observe(body(status={**RECORDED, "sandbox": RUNNING}))
    store = Store(class_body())
    reports = await report(known, store)
    status = store.bodies["gold"]["status"]
    assert (status["sessions"], status["activeSandboxes"], status["observedGeneration"]) == (1, 1, 7)
    assert [(each["status"], each["reason"]) for each in status["conditions"]] == [("True", "Ready")]
    assert status["outrankedBy"] == []
    await reports.report()
    assert len(store.writes) == 1


async def test_numbers_are_written_seldom_and_conditions_at_once(known: Context) -> None:
    store = Store(class_body(), class_body("other", spec={"precedence": 1}))
    reports = await report(known, store)
    before = len(store.writes)
    known.records.cache.observe(body(status=RECORDED))
    await reports.report()
    assert len(store.writes) == before
    assert isinstance(known.clock, Ticking)
    known.clock.seconds += 11
    await reports.report()
    assert len(store.writes) == before + 1
    known.classes.cache.observe(class_body(version=50, generation=8, spec={"precedence": 1}))
    store.bodies["gold"]["metadata"]["resourceVersion"] = "50"
    await reports.report()
    reasons = {name: each["status"]["conditions"][0]["reason"] for name, each in store.bodies.items()}
    assert reasons == {"gold": "Ambiguous", "other": "Ambiguous"}


async def test_a_spent_budget_is_reported_and_its_end_sets_sessions_free(known: Context) -> None:
    today = f"{known.now():%Y-%m-%d}"
    used = {"activeToday": {"day": today, "seconds": 70}}
    known.records.cache.observe(body(status={**RECORDED, **used}))
    store, freed = Store(class_body(spec={"limits": {"maxActiveSecondsPerDay": 60}})), list[str]()
    reports = await report(known, store, freed)
    status = store.bodies["gold"]["status"]
    assert status["conditions"][0]["reason"] == "BudgetReached"
    assert status["activeToday"] == {"day": today, "seconds": 70, "departedSeconds": 0}
    raised = class_body(version=60, generation=8, spec={"limits": {"maxActiveSecondsPerDay": 600}})
    known.classes.cache.observe({**raised, "status": status})
    store.bodies["gold"]["metadata"]["resourceVersion"] = "60"
    await reports.report()
    assert freed == ["gold"]
    assert store.bodies["gold"]["status"]["conditions"][0]["reason"] == "Ready"


async def test_a_message_that_names_hundreds_of_classes_is_not_longer_than_it_may_be(known: Context) -> None:
    store = Store(*(class_body(f"{number:063}") for number in range(600)))
    await report(known, store)
    (condition,) = store.bodies[f"{0:063}"]["status"]["conditions"]
    assert condition["reason"] == "Ambiguous"
    limits = fields_of(definition("managedsessionclasses.yaml"))
    assert len(condition["message"]) <= limits["status.conditions[].message"]["maxLength"]


async def test_a_class_that_cannot_be_read_says_which_field(known: Context) -> None:
    store = Store(class_body(spec={"precedence": "high"}))
    reports = await report(known, store)
    condition = store.bodies["gold"]["status"]["conditions"][0]
    assert condition["reason"] == "Invalid"
    assert "spec.precedence" in condition["message"]
    await reports.report()
    assert len(store.writes) == 1
