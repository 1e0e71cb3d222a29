"""When a rollout is done, and which blockers are reported."""

from __future__ import annotations

from typing import Any

import pytest
from managed_session_cli.rollout import rollout

DONE = {
    "observedGeneration": 2,
    "replicas": 2,
    "updatedReplicas": 2,
    "readyReplicas": 2,
    "availableReplicas": 2,
}


def deployment(**status: Any) -> dict[str, Any]:
    return {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "operator-1"}, "status": status}


def waits(reason: str) -> dict[str, Any]:
    return pod(containerStatuses=[{"image": "r/x:1", "state": {"waiting": {"reason": reason}}}])


def test_done_when_all_pods_are_new_and_available() -> None:
    assert rollout("operator", deployment(**DONE), []).done


@pytest.mark.parametrize(
    ("change", "progress"),
    [
        ({"observedGeneration": 1}, "not yet observed"),
        ({"availableReplicas": 1}, "1 of 2 new pods ready"),
        ({"updatedReplicas": 1, "replicas": 3}, "1 of 2 new pods ready, 2 old pods left"),
        ({"replicas": 3}, "1 old pod left"),
    ],
)
def test_not_done_before_that(change: dict[str, Any], progress: str) -> None:
    seen = rollout("operator", deployment(**{**DONE, **change}), [])
    assert not seen.done
    assert progress in seen.progress


def test_missing_deployment_is_named() -> None:
    assert "does not exist" in rollout("operator", None, []).progress


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CrashLoopBackOff", "CreateContainerConfigError"])
def test_reason_why_a_container_waits_is_named(reason: str) -> None:
    [blocker] = rollout("operator", deployment(), [waits(reason)]).blockers
    assert reason in blocker
    assert "r/x:1" in blocker


def test_container_that_is_being_created_is_not_a_blocker() -> None:
    assert rollout("operator", deployment(), [waits("ContainerCreating")]).blockers == ()


def test_pod_without_a_node_is_named() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    [blocker] = rollout("operator", deployment(), [pod(conditions=[condition])]).blockers
    assert "cannot be scheduled: 0/3 nodes" in blocker


def test_rejected_pods_are_named() -> None:
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "violates PodSecurity",
    }
    [blocker] = rollout("operator", deployment(conditions=[failure]), []).blockers
    assert "FailedCreate: violates PodSecurity" in blocker


def test_pod_that_is_being_deleted_is_not_a_blocker() -> None:
    ending = waits("ImagePullBackOff")
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert len(rollout("operator", deployment(), [waits("ImagePullBackOff"), ending]).blockers) == 1
