"""Collects the state of the cluster for the report of a failed test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

from managed_session_api import names

from .commands import Kubectl
from .installation import RESOURCES, SYSTEM
from .simulated_clouds import NAMESPACE as SIMULATORS

_LINES = 60
_SECONDS = 20.0


def diagnosis(kubectl: Kubectl) -> str:
    """Return pods, resources, Events, descriptions and the end of every log. Takes seconds, never raises."""
    return "\n".join(_show(kubectl, *args) for args in _questions(kubectl))


def _questions(kubectl: Kubectl) -> Iterator[tuple[str, ...]]:
    yield "get", "pods", "--all-namespaces", "--output=wide"
    yield f"--namespace={RESOURCES}", "get", names.PLURAL, "--output=yaml"
    yield f"--namespace={SYSTEM}", "get", "leases,deployments,poddisruptionbudgets", "--output=wide"
    for namespace in (SYSTEM, RESOURCES, SIMULATORS):
        yield f"--namespace={namespace}", "get", "events", "--sort-by=.lastTimestamp"
    for namespace in (SYSTEM, SIMULATORS):
        yield f"--namespace={namespace}", "describe", "pods"
        for pod in _ask(kubectl, f"--namespace={namespace}", "get", "pods", "--output=name").stdout.split():
            yield f"--namespace={namespace}", "logs", pod, f"--tail={_LINES}"
            yield f"--namespace={namespace}", "logs", pod, f"--tail={_LINES}", "--previous"


def _show(kubectl: Kubectl, *args: str) -> str:
    done = _ask(kubectl, *args)
    return f"--- kubectl {' '.join(args)}\n{done.stdout.rstrip()}\n{done.stderr.rstrip()}".rstrip()


def _ask(kubectl: Kubectl, *args: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", *args]
    try:
        return subprocess.run(
            command,
            env={**os.environ, **kubectl.environment},
            text=True,
            capture_output=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {_SECONDS:g} s")
