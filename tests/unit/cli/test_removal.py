"""The order of a removal, what stays, and whether an operator is there to do its part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from managed_session_cli.cluster import Reference
from managed_session_cli.installation import Installation
from managed_session_cli.operator_presence import presence
from managed_session_cli.removal import cluster_wide_stays, describe_waiting, given_namespaces, removal_order

NOW = datetime(2026, 11, 25, tzinfo=UTC)
MANIFESTS = Installation().manifests()
SECRET = Reference("v1", "Secret", "managed-session-operator", "managed-sessions-system")


def kinds(*, cluster_wide: bool) -> list[str]:
    return [each.kind for each in removal_order(MANIFESTS, [SECRET], cluster_wide=cluster_wide)]


def test_everything_goes_once() -> None:
    order = removal_order(MANIFESTS, [SECRET], cluster_wide=True)
    assert len(order) == len(set(order)) == len(MANIFESTS) + 1


def test_guard_goes_first_then_what_is_in_the_namespaces_then_those_then_the_definition() -> None:
    order = kinds(cluster_wide=True)
    assert order[:2] == ["ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"]
    assert order.index("Deployment") < order.index("Role") < order.index("ServiceAccount")
    assert order.index("ServiceAccount") < order.index("Secret") < order.index("Namespace")
    assert order.index("Namespace") < order.index("CustomResourceDefinition")


def test_what_installations_share_stays_where_it_has_to() -> None:
    order = kinds(cluster_wide=False)
    assert "Namespace" in order
    assert not {"CustomResourceDefinition", "ClusterRole"} & set(order)
    assert order.count("ValidatingAdmissionPolicy") == 1, "the guard is not shared, the policy on webhooks is"


def test_only_namespaces_that_an_installation_has_made_go() -> None:
    made = [each for each in MANIFESTS if each["kind"] == "Namespace"]
    given = {"metadata": {"name": "managed-sessions", "labels": {"team": "ours"}}}
    assert given_namespaces(made) == set()
    assert given_namespaces([given, *made]) == {"managed-sessions"}
    order = removal_order(MANIFESTS, [SECRET], cluster_wide=True, given={"managed-sessions"})
    assert [each.name for each in order if each.kind == "Namespace"] == ["managed-sessions-system"]


def in_namespace(name: str) -> dict[str, Any]:
    return {"metadata": {"namespace": name}}


@pytest.mark.parametrize(
    ("sessions", "operators", "keep", "why"),
    [
        ([], [], False, None),
        ([], [], True, "--keep-crd"),
        ([in_namespace("theirs")], [], False, "theirs"),
        ([], [in_namespace("their-system")], False, "their-system"),
    ],
)
def test_definition_stays_for_others(sessions: Any, operators: Any, keep: bool, why: str | None) -> None:
    found = cluster_wide_stays(sessions, operators, keep=keep)
    assert found is None if why is None else found is not None and why in found


def test_session_that_stays_says_why() -> None:
    ready = {"type": "Ready", "reason": "CleanupBlocked", "message": "E2B answered kill: 503"}
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
    ("pods", "held", "acts", "said"),
    [
        (deployment(2), lease("pod-1", 3), True, "pod-1 leads"),
        (None, lease("pod-1", 3), True, "pod-1 leads"),
        (deployment(1), lease(None, 3), True, "1 pods are ready"),
        (deployment(0), lease("pod-1", 300), False, "renewed 300 s ago"),
        (deployment(0), None, False, "none of its 2 pods is ready"),
        (None, None, False, "Deployment is absent"),
    ],
)
def test_operator_acts_if_it_leads_or_could(pods: Any, held: Any, acts: bool, said: str) -> None:
    seen = presence(pods, held, NOW)
    assert seen.acts is acts
    assert said in seen.explanation
