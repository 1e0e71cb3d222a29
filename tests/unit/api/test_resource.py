"""The typed form of a resource and its JSON form."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from managed_session_api.conditions import ConditionStatus, ConditionType, Phase
from managed_session_api.resource import ManagedSession, OnSandboxLost, SandboxState
from pydantic import ValidationError

BODY = {
    "apiVersion": "managedagents.dev/v1alpha1",
    "kind": "ManagedSession",
    "metadata": {
        "name": "sesn-1-0123456789",
        "namespace": "managed-sessions",
        "uid": "u",
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": "2026-11-23T16:54:01Z",
        "managedFields": [{"manager": "kubectl"}],
    },
    "spec": {
        "sessionID": "sesn_1",
        "environmentID": "env_1",
        "agentID": "agent_1",
        "sandbox": {"timeoutSeconds": 60, "network": {"allow": ["a.example"], "deny": ["0.0.0.0/0"]}},
        "worker": {"maxIdleSeconds": 5, "attachTimeoutSeconds": 7, "logLevel": "DEBUG"},
        "lifecycle": {"idleTTLSeconds": 60, "ttlSecondsAfterEnd": 1, "onSandboxLost": "Fail"},
    },
    "status": {
        "phase": "Running",
        "lastEvent": {
            "id": "e",
            "type": "session.status_run_started",
            "createdAt": "2026-11-23T17:54:01+01:00",
        },
        "sandbox": {"id": "i1", "state": "Running", "templateID": "t", "attempt": 3},
        "work": {"claim": "c", "firstHeartbeatAt": "2026-11-23T16:54:02.000001Z", "attempts": 1},
        "turns": 4,
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Running",
                "lastTransitionTime": "2026-11-23T16:54:02.000001Z",
            }
        ],
    },
}


def test_every_field_of_the_json_form_is_read() -> None:
    resource = ManagedSession.model_validate(BODY)
    assert resource.spec.session_id == "sesn_1"
    assert resource.spec.environment_id == "env_1"
    assert resource.spec.lifecycle.idle_ttl_seconds == 60
    assert resource.spec.lifecycle.ttl_seconds_after_end == 1
    assert resource.spec.lifecycle.on_sandbox_lost is OnSandboxLost.FAIL
    assert resource.status.phase is Phase.RUNNING
    assert resource.status.sandbox.template_id == "t"
    assert resource.status.sandbox.state is SandboxState.RUNNING
    assert resource.metadata.creation_timestamp == datetime(2026, 11, 23, 16, 54, 1, tzinfo=UTC)


def test_times_are_converted_to_utc() -> None:
    event = ManagedSession.model_validate(BODY).status.last_event
    assert event is not None
    assert event.created_at == datetime(2026, 11, 23, 16, 54, 1, tzinfo=UTC)
    assert event.created_at.tzinfo is UTC


def test_the_json_form_can_be_read_back_and_has_the_json_names() -> None:
    resource = ManagedSession.model_validate(BODY)
    again = ManagedSession.model_validate(resource.to_json())
    assert again == resource
    spec = resource.to_json()["spec"]
    assert spec["sessionID"] == "sesn_1"
    assert spec["lifecycle"]["idleTTLSeconds"] == 60
    assert spec["lifecycle"]["ttlSecondsAfterEnd"] == 1


def test_a_resource_that_the_webhook_has_just_created_is_valid() -> None:
    resource = ManagedSession.model_validate({"metadata": {"name": "a"}, "spec": {"sessionID": "s"}})
    assert resource.status.sandbox.attempt == 0
    assert resource.status.work.claim is None
    assert resource.status.condition(ConditionType.READY) is None


def test_a_condition_is_found_by_its_type() -> None:
    ready = ManagedSession.model_validate(BODY).status.condition(ConditionType.READY)
    assert ready is not None
    assert ready.status is ConditionStatus.TRUE


def test_fields_of_a_newer_version_are_ignored() -> None:
    body = {"metadata": {"name": "a"}, "spec": {"sessionID": "s", "later": 1}, "status": {"later": {}}}
    assert ManagedSession.model_validate(body).spec.session_id == "s"


def test_a_resource_without_a_session_is_rejected() -> None:
    with pytest.raises(ValidationError, match="sessionID"):
        ManagedSession.model_validate({"metadata": {"name": "a"}, "spec": {}})
