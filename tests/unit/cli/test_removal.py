"""The order of a removal, what stays, and whether an operator can do its part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from managed_session_cli.cluster import Reference
from managed_session_cli.installation import Installation
from managed_session_cli.operator_presence import presence
from managed_session_cli.removal import (
    cluster_wide_stays,
    describe_waiting,
    preexisting_namespaces,
    removal_order,
)

NOW = datetime(2026, 11, 25, tzinfo=UTC)
MANIFESTS = Installation().manifests()
SECRET = Reference("v1", "Secret", "managed-session-operator", "managed-sessions-system")


def kinds(*, cluster_wide: bool) -> list[str]:
    return [each.kind for each in removal_order(MANIFESTS, [SECRET], cluster_wide=cluster_wide)]


def test_everything_is_removed_once() -> None:
    order = removal_order(MANIFESTS, [SECRET], cluster_wide=True)
    assert len(order) == len(set(order)) == len(MANIFESTS) + 1


def test_removal_goes_from_the_guard_to_namespaced_objects_to_namespaces_to_the_crd() -> None:
    order = kinds(cluster_wide=True)
    assert order[:2] == ["ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"]
    assert order.index("Deployment") < order.index("Role") < order.index("ServiceAccount")
    assert order.index("ServiceAccount") < order.index("Secret") < order.index("Namespace")
    assert order.index("Namespace") < order.index("CustomResourceDefinition")


def test_shared_objects_stay_while_another_installation_needs_them() -> None:
    order = kinds(cluster_wide=False)
    assert "Namespace" in order
    assert not {"CustomResourceDefinition", "ClusterRole"} & set(order)
    assert order.count("ValidatingAdmissionPolicy") == 1, "the guard is not shared, the policy on webhooks is"


def test_only_namespaces_that_the_installation_has_created_are_removed() -> None:
    made = [each for each in MANIFESTS if each["kind"] == "Namespace"]
    preexisting = {"metadata": {"name": "managed-sessions", "labels": {"team": "ours"}}}
    assert preexisting_namespaces(made) == set()
    assert preexisting_namespaces([preexisting, *made]) == {"managed-sessions"}
    order = removal_order(MANIFESTS, [SECRET], cluster_wide=True, preexisting={"managed-sessions"})
    assert [each.name for each in order if each.kind == "Namespace"] == ["managed-sessions-system"]


def in_namespace(name: str) -> dict[str, Any]:
    return {"metadata": {"namespace": name}}


@pytest.mark.parametrize(
    ("sessions", "classes", "operators", "keep", "why"),
    [
        ([], [], [], False, None),
        ([], [], [], True, "--keep-crd"),
        ([in_namespace("theirs")], [], [], False, "theirs"),
        ([], [in_namespace("theirs")], [], False, "ManagedSessionClasses in other namespaces (theirs)"),
        ([], [], [in_namespace("their-system")], False, "their-system"),
    ],
)
def test_crds_stay_for_other_installations(
    sessions: Any, classes: Any, operators: Any, keep: bool, why: str | None
) -> None:
    found = cluster_wide_stays(sessions, classes, operators, keep=keep)
    assert found is None if why is None else found is not None and why in found


def test_remaining_session_says_why() -> None:
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "CleanupBlocked",
        "message": "E2B answered kill: 503",
        "lastTransitionTime": "2026-11-25T11:00:00Z",
    }
    session = {
        "metadata": {"name": "sesn-1"},
        "spec": {"sessionID": "sesn_1"},
        "status": {"conditions": [ready]},
    }
    assert describe_waiting([session]) == ["sesn-1 (sesn_1): CleanupBlocked: E2B answered kill: 503"]


def lease(holder: str | None, age_seconds: float) -> dict[str, Any]:
    renewed = (NOW - timedelta(seconds=age_seconds)).isoformat()
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}}


def deployment(ready: int) -> dict[str, Any]:
    return {"spec": {"replicas": 2}, "status": {"readyReplicas": ready}}


@pytest.mark.parametrize(
    ("pods", "held", "acts", "explanation"),
    [
        (deployment(2), lease("pod-1", 3), True, "pod-1 leads"),
        (None, lease("pod-1", 3), True, "pod-1 leads"),
        (deployment(1), lease(None, 3), True, "1 pod ready"),
        (deployment(0), lease("pod-1", 300), False, "last renewed 300 s ago"),
        (deployment(0), None, False, "0 of 2 pods ready"),
        (None, None, False, "the Deployment does not exist"),
    ],
)
def test_operator_acts_if_it_leads_or_can_become_leader(
    pods: Any, held: Any, acts: bool, explanation: str
) -> None:
    seen = presence(pods, held, NOW)
    assert seen.acts is acts
    assert explanation in seen.explanation
