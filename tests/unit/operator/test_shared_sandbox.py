"""What is decided about sandboxes that sessions share."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.managed_sandbox import ManagedSandbox, SharedState
from managed_session_api.resource import PolicyField, Scope
from managed_session_api.times import to_wire
from managed_session_operator.domain import policy_record, shared_sandbox
from managed_session_operator.domain.decide import decide
from managed_session_operator.domain.kept_snapshots import with_snapshots
from managed_session_operator.domain.policy import policy_of
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.domain.session_setup import (
    REPOSITORY,
    RefusedMetadataError,
    with_session_setup,
)
from managed_session_operator.domain.step import Decision, Step
from managed_session_operator.resync.ownership import Owners
from managed_session_operator.resync.sandbox_comparison import SandboxComparison
from managed_session_operator.resync.sandbox_list import Listing
from managed_session_operator.steps.snapshot import saved_sandbox

from .examples import ENVIRONMENT, NAME, NOW, ago, body, session, session_class, settings, work
from .examples import observation as seen

SHARED = {"session": {"routing": {"scope": "agent"}, "sandbox": {"template": "team:1"}}}


def owner(**status: Any) -> ManagedSandbox:
    return ManagedSandbox.model_validate(
        {
            "metadata": {"name": "agent-a-1", "uid": "uid-owner", "generation": 1},
            "spec": {"scope": "agent", "key": "agent_1", "environmentID": ENVIRONMENT},
            "status": status,
        }
    )


def view(sandbox_id: str = "i1", attempt: int = 1, *, paused: bool = False, end: float = 900) -> SandboxView:
    metadata = {
        **shared_sandbox.shared_metadata(owner(), "ours"),
        names.METADATA_ATTEMPT: str(attempt),
    }
    return SandboxView(sandbox_id, paused, "t", metadata, NOW, NOW + timedelta(seconds=end))


def test_key_and_class_decide_who_shares() -> None:
    base = ("ours", ENVIRONMENT, "agent", "agent_1", "gold")
    name = names.shared_sandbox_name(*base)
    assert name == names.shared_sandbox_name(*base)
    others = set()
    for position in range(len(base)):
        arguments = [*base]
        arguments[position] = "x"
        others.add(names.shared_sandbox_name(*arguments))
    assert len({name, *others}) == len(base) + 1
    assert len(names.shared_sandbox_name("ours", ENVIRONMENT, "environment", "a" * 120, "")) <= 63


def test_resource_that_is_made_again_gets_another_key_and_a_restored_one_keeps_it() -> None:
    marked = {names.ANNOTATION_IDENTITY: "kept"}
    assert session(uid="1").session_key != session(uid="2").session_key
    before, after = session(uid="1", annotations=marked), session(uid="2", annotations=marked)
    assert before.session_key == after.session_key
    assert before.session_key != session(annotations=marked, session="sesn_other").session_key


def test_session_of_a_shared_sandbox_sets_nothing_of_the_sandbox() -> None:
    mine = {"sandbox": {"template": "mine:1", "env": {"A": "1"}}, "worker": {"maxIdleSeconds": 5}}
    policy = policy_of(session(spec=mine), settings(), session_class(spec=SHARED))
    assert policy.values.scope is Scope.AGENT
    assert (policy.values.template, policy.values.env, policy.values.max_idle_seconds) == ("team:1", {}, 5)
    assert policy.refused == (PolicyField.TEMPLATE, PolicyField.ENV)
    condition = policy_record.policy_condition(session(), policy)
    assert condition.reason is Reason.LOCKED_FIELD
    assert "shared sandbox" in condition.message


def test_scope_takes_effect_with_the_next_sandbox() -> None:
    mine = {"sandbox": {"template": "mine:1"}}
    private = session({"sandbox": {"id": "i1", "state": "Paused"}}, spec=mine)
    assert policy_of(private, settings(), session_class(spec=SHARED)).values.template == "mine:1"
    shared = session({"sandbox": {"id": "i1", "state": "Paused", "sharedBy": "agent-a-1"}}, spec=mine)
    assert policy_of(shared, settings(), session_class(spec={})).refused == (PolicyField.TEMPLATE,)


def test_metadata_of_a_sharing_session_ask_in_vain() -> None:
    policy = policy_of(session(), settings(), session_class(spec=SHARED)).values
    assert with_session_setup(policy, {"other": "key"}) is policy
    with pytest.raises(RefusedMetadataError):
        with_session_setup(policy, {REPOSITORY: "https://git.example.com/a"})


def test_request_for_a_snapshot_is_refused_without_waking_the_sandbox() -> None:
    status = {"sandbox": {"id": "i1", "state": "Paused", "sharedBy": "agent-a-1"}}
    rest = Decision(Step.WAIT, Reason.IDLE)
    asking = session(status, spec={"requests": {"snapshot": "now"}})
    assert with_snapshots(asking, seen(), rest).step is Step.TAKE_SNAPSHOT
    assert with_snapshots(asking, seen(snapshot_again_after=9.0), rest).again_after == 9.0
    restoring = session(status, spec={"requests": {"restore": {"id": "1", "snapshotID": "s"}}})
    assert with_snapshots(restoring, seen(), rest).step is Step.TAKE_SNAPSHOT
    assert with_snapshots(session(status), seen(), rest) == rest


def test_session_that_detaches_has_saved_nothing_of_a_pause() -> None:
    assert saved_sandbox(view(), NOW) == {"state": "Paused", "savedAt": NOW}
    assert "savedPeriodStartedAt" in saved_sandbox(view(paused=True, end=-1), NOW)


def test_countdown_never_gets_shorter() -> None:
    assert shared_sandbox.countdown(view(end=900), 60, NOW) == 900
    assert shared_sandbox.countdown(view(end=10), 60, NOW) == 60


def test_reappeared_sandbox_is_used_before_those_of_the_newest_attempt() -> None:
    known = owner(attempt=2, vanished=["i0"])
    listed = [view("i1", 1), view("i3", 2, paused=True), view("i2", 2), view("i0", 1)]
    assert [each.sandbox_id for each in shared_sandbox.adoptable(known, listed)] == ["i0", "i2", "i3"]


@pytest.mark.parametrize(
    ("status", "superseded", "abandoned"),
    [
        ({"id": "i1", "attempt": 1}, False, False),
        ({"id": "i2", "attempt": 2}, True, False),
        ({"id": "i2", "attempt": 2, "vanished": ["i1"]}, False, False),
        ({"id": "i0", "attempt": 0}, False, False),
        ({"state": "Creating", "attempt": 1}, False, False),
        ({"state": "Lost", "attempt": 1}, False, True),
        ({"state": "Lost", "attempt": 1, "vanished": ["i1"]}, False, False),
    ],
)
def test_what_becomes_of_a_listed_sandbox(status: dict[str, Any], superseded: bool, abandoned: bool) -> None:
    known = owner(**status)
    assert shared_sandbox.is_superseded(known, view()) is superseded
    assert shared_sandbox.is_abandoned(known, view()) is abandoned


def test_sandbox_of_an_earlier_owner_of_the_name_belongs_to_nobody() -> None:
    earlier = owner().model_copy(update={"metadata": owner().metadata.model_copy(update={"uid": "other"})})
    assert shared_sandbox.belongs_to(view(), owner())
    assert not shared_sandbox.belongs_to(view(), earlier)
    assert not shared_sandbox.belongs_to(view(), None)


def test_loss_is_recorded_once() -> None:
    known = owner(id="i1", attempt=1, state="Running")
    fields = shared_sandbox.lost_fields(known, "i1")
    patch = shared_sandbox.owner_patch(known, NOW, fields)
    assert (patch["id"], patch["state"], patch["vanished"]) == (None, "Lost", ["i1"])
    assert patch["conditions"][0]["reason"] == Reason.SANDBOX_VANISHED
    assert shared_sandbox.lost_fields(owner(id="i2", attempt=2), "i1") == {}
    assert shared_sandbox.owner_patch(known, NOW, {"state": SharedState.RUNNING, "departed": []}) == {}


def test_session_restored_without_its_status_keeps_the_sandbox() -> None:
    of_agent: dict[str, Any] = {"agentID": "agent_1"}
    assert shared_sandbox.may_belong(session(spec=of_agent), owner())
    lost: dict[str, Any] = {"turns": 1, "sandbox": {"state": "Lost"}}
    for status, spec in (
        ({}, {"agentID": "agent_2"}),
        ({"sandbox": {"id": "i9"}}, of_agent),
        ({"sandbox": {"state": "Creating", "attempt": 1}}, of_agent),
        ({"sandbox": {"state": "Lost", "attempt": 1}}, of_agent),
        (lost, of_agent),
    ):
        assert not shared_sandbox.may_belong(session(status, spec=spec), owner())


@pytest.mark.parametrize("runs", [True, False])
def test_suspension_stops_a_worker_that_waits_for_its_user_where_other_sessions_work(runs: bool) -> None:
    since = to_wire(ago(99))
    served = {**work(acknowledged=200, heartbeat=190), "awaitingUserSince": since, "waitPausedAt": since}
    status = {"work": served, "sandbox": {"id": "i1", "state": "Paused", "sharedBy": "agent-a-1"}}
    cache = ResourceCache()
    cache.observe(body(status=status, spec={"lifecycle": {"suspend": True}}))
    listing = Listing([], asked_at=NOW, whole=True)
    comparison = SandboxComparison(connected=lambda _: False)
    shared = {"i1": view(paused=not runs)}
    compared = comparison.compare(listing, [], Owners(cache), cache, shared)
    assert compared.running_unneeded == ({NAME} if runs else set())
    resource = cache.get(NAME)
    assert resource is not None
    step = decide(resource, seen(running_unexpectedly=bool(compared.running_unneeded))).step
    assert step is (Step.SUSPEND if runs else Step.WAIT)
