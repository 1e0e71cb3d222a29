"""The typed form of a class and its JSON form, and what a session records of it."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_api.conditions import ConditionStatus, ConditionType
from managed_session_api.resource import ManagedSession, PolicyField
from managed_session_api.session_class import ManagedSessionClass, MatchOperator
from pydantic import ValidationError

SPEC: dict[str, Any] = {
    "selector": {
        "agentIDs": ["agent_1"],
        "agentNames": ["Ann"],
        "environmentID": "env_1",
        "sessionMetadata": {
            "matchLabels": {"team": "red"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["free"]}],
        },
    },
    "precedence": 10,
    "session": {
        "routing": {"scope": "agent"},
        "sandbox": {"metadata": {}, "env": {"A": "b"}, "autoResume": False},
        "worker": {"maxIdleSeconds": 5},
        "lifecycle": {"idleTTLSeconds": 60},
    },
    "locked": ["network"],
    "limits": {
        "maxActiveSandboxes": 10,
        "guaranteedSlots": 2,
        "weight": 3,
        "maxTurnSeconds": 3600,
        "maxActiveSecondsPerDay": 360000,
    },
}
STATUS: dict[str, Any] = {
    "sessions": 3,
    "activeSandboxes": 2,
    "waiting": 1,
    "activeToday": {"day": "2026-11-29", "seconds": 77, "departedSeconds": 7},
    "outrankedBy": [],
    "observedGeneration": 7,
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "Ambiguous",
            "message": "silver",
            "lastTransitionTime": "2026-11-29T12:00:00.000000Z",
        }
    ],
}


def test_the_json_form_can_be_read_and_written() -> None:
    body = {"metadata": {"name": "gold", "generation": 7}, "spec": SPEC, "status": STATUS}
    read = ManagedSessionClass.model_validate(body)
    assert read.spec.to_json() == SPEC
    assert read.status.to_json() == STATUS
    assert read.origin == "class/gold@7"
    assert read.spec.selector is not None
    assert read.spec.selector.session_metadata is not None
    assert read.spec.selector.session_metadata.match_expressions[0].operator is MatchOperator.NOT_IN
    ready = read.status.condition(ConditionType.READY)
    assert ready is not None
    assert ready.status is ConditionStatus.FALSE


def test_a_class_without_a_spec_is_a_default_that_sets_and_limits_nothing() -> None:
    read = ManagedSessionClass.model_validate({"metadata": {"name": "usual"}})
    assert (read.spec.selector, read.spec.precedence, read.spec.locked) == (None, 0, [])
    assert (read.spec.limits.weight, read.spec.limits.guaranteed_slots) == (1, 0)
    assert read.spec.limits.max_active_sandboxes is read.spec.limits.max_turn_seconds is None
    assert read.spec.limits.max_active_seconds_per_day is None


def test_what_a_newer_version_adds_is_ignored_where_that_is_safe() -> None:
    spec = {"later": 1, "locked": ["network", "addedLater"]}
    read = ManagedSessionClass.model_validate({"metadata": {"name": "gold"}, "spec": spec})
    assert read.spec.locked == [PolicyField.NETWORK, "addedLater"]
    expression = {"key": "tier", "operator": "AddedLater"}
    selector = {"sessionMetadata": {"matchExpressions": [expression]}}
    with pytest.raises(ValidationError, match="operator"):
        ManagedSessionClass.model_validate({"metadata": {"name": "gold"}, "spec": {"selector": selector}})


def test_a_session_that_sets_nothing_leaves_everything_to_its_class() -> None:
    spec = ManagedSession.model_validate({"metadata": {"name": "a"}, "spec": {"sessionID": "s"}}).spec
    assert spec.sandbox.to_json() == {"metadata": {}, "env": {}}
    assert spec.worker.to_json() == spec.lifecycle.to_json() == {}


def test_a_session_records_its_class_and_the_origins_of_its_policy() -> None:
    status = {
        "class": {"name": "gold", "uid": "u", "generation": 7},
        "activeToday": {"day": "2026-11-29", "seconds": 5},
        "sandbox": {"createdWith": {"template": "0123"}},
    }
    body = {"metadata": {"name": "a"}, "spec": {"sessionID": "s"}, "status": status}
    session = ManagedSession.model_validate(body)
    assert session.status.session_class is not None
    assert session.status.session_class.generation == 7
    assert session.status.active_today is not None
    assert session.status.active_today.day == "2026-11-29"
    written = session.status.to_json()
    assert written["class"] == status["class"]
    assert written["sandbox"]["createdWith"] == {"template": "0123"}


def test_a_session_without_a_class_is_written_as_before() -> None:
    written = ManagedSession.model_validate({"metadata": {"name": "a"}, "spec": {"sessionID": "s"}}).to_json()
    assert not {"class", "activeToday"} & written["status"].keys()
    assert "createdWith" not in written["status"]["sandbox"]
