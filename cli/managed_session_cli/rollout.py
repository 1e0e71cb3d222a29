"""How far a Deployment's rollout is, and what holds it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from managed_session_cli.cluster import Object

_REMEDIES = {
    "ImagePullBackOff": "can the nodes pull this image? For a private registry the pods need a pull secret",
    "ErrImagePull": "can the nodes pull this image? For a private registry the pods need a pull secret",
    "InvalidImageName": "correct --image",
    "ErrImageNeverPull": "load the image onto the nodes",
    "CrashLoopBackOff": "kubectl logs --previous of this pod says why",
    "CreateContainerConfigError": "the message names what is missing",
    "RunContainerError": "does the image hold this program?",
}
"""What a container waits for, when waiting does not end by itself."""


@dataclass(frozen=True)
class Rollout:
    """How far a rollout is.

    Attributes:
        name: of the Deployment.
        done: all pods are of the newest version and ready.
        progress: in words.
        blockers: what holds it up, as far as can be seen.
    """

    name: str
    done: bool
    progress: str
    blockers: tuple[str, ...]


def rollout(name: str, deployment: Object | None, pods: Sequence[Object]) -> Rollout:
    """The rollout's state; `pods` are those that the Deployment's selector finds."""
    if deployment is None:
        return Rollout(name, False, "the Deployment is absent", ())
    wanted = deployment["spec"].get("replicas", 1)
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    total, updated = status.get("replicas", 0), status.get("updatedReplicas", 0)
    available = status.get("availableReplicas", 0)
    done = seen and updated >= wanted and available >= wanted and total <= updated
    if not seen:
        progress = "not looked at by the cluster's controller yet"
    else:
        progress = f"{min(updated, available)} of {wanted} new pods ready"
        if total > updated:
            progress += f", {total - updated} old still there"
    found = [] if done else [*_deployment_blockers(status), *(b for pod in pods for b in pod_blockers(pod))]
    return Rollout(name, done, progress, tuple(dict.fromkeys(found)))


def _deployment_blockers(status: Object) -> list[str]:
    found = []
    for condition in status.get("conditions", []):
        failed = condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        stuck = condition["type"] == "Progressing" and condition["status"] == "False"
        if failed or stuck:
            found.append(f"{condition.get('reason', condition['type'])}: {condition.get('message', '')}")
    return found


def pod_blockers(pod: Object) -> list[str]:
    """What keeps a pod from becoming ready, with what to do about it."""
    name = pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp"):
        return []
    status = pod.get("status") or {}
    found = [
        f"{name} cannot be scheduled: {condition.get('message', condition.get('reason', ''))}"
        for condition in status.get("conditions", [])
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") in _REMEDIES:
            reason = waiting["reason"]
            message = waiting.get("message", "")
            text = f"{name}: {reason} of {container.get('image', 'its image')}: {_REMEDIES[reason]}"
            found.append(text + (f" ({message})" if message else ""))
        elif container.get("restartCount", 0) and not container.get("ready"):
            ended = container.get("lastState", {}).get("terminated", {})
            found.append(
                f"{name}: restarted {container['restartCount']} times, last with exit code "
                f"{ended.get('exitCode', '?')} ({ended.get('reason', 'unknown')}); "
                "kubectl logs --previous says why"
            )
    return found
