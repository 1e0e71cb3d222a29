"""Finds the progress of a Deployment's rollout, and what blocks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from managed_session_cli.cluster import Object
from managed_session_cli.wording import counted

_PULL = "check that the nodes can pull this image; a private registry requires a pull secret"
_REMEDIES = {
    "ImagePullBackOff": _PULL,
    "ErrImagePull": _PULL,
    "InvalidImageName": "correct --image",
    "ErrImageNeverPull": "load the image onto the nodes",
    "CrashLoopBackOff": "see `kubectl logs --previous` of this pod",
    "CreateContainerConfigError": "the message names what is missing",
    "RunContainerError": "check that the image contains the program",
}
"""Reasons for which a container waits until somebody does something."""


@dataclass(frozen=True)
class Rollout:
    """The state of a rollout.

    Attributes:
        name: of the Deployment.
        done: all pods have the newest version and are ready.
        progress: in words.
        blockers: what blocks it, as far as the cluster shows.
    """

    name: str
    done: bool
    progress: str
    blockers: tuple[str, ...]


def rollout(name: str, deployment: Object | None, pods: Sequence[Object]) -> Rollout:
    """Return the state of a rollout; `pods` are those that the Deployment selects."""
    if deployment is None:
        return Rollout(name, False, "the Deployment does not exist", ())
    wanted = deployment["spec"].get("replicas", 1)
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    total, updated = status.get("replicas", 0), status.get("updatedReplicas", 0)
    available = status.get("availableReplicas", 0)
    done = seen and updated >= wanted and available >= wanted and total <= updated
    if not seen:
        progress = "not yet observed by the Deployment controller"
    else:
        progress = f"{min(updated, available)} of {wanted} new pods ready"
        if total > updated:
            progress += f", {counted(total - updated, 'old pod')} left"
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
    """Return what keeps a pod from becoming ready, and what to do about it."""
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
                f"{name}: {counted(container['restartCount'], 'restart')}, last exit code "
                f"{ended.get('exitCode', '?')} ({ended.get('reason', 'unknown')}); "
                "see `kubectl logs --previous` of this pod"
            )
    return found
