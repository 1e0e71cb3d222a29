"""Resources, offers and observations as plain values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from managed_session_api import names
from managed_session_api.events import RUN_STARTED
from managed_session_api.resource import EffectiveStatus, ManagedSession, OnSandboxLost
from managed_session_api.session_class import ManagedSessionClass
from managed_session_api.times import to_wire
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.domain.observation import Observation
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.resource_summary import ResourceSummary, summary_of
from managed_session_operator.domain.worker_run import ExitRecord, WorkerRun
from managed_session_operator.settings import OperatorSettings
from pydantic import SecretStr

NOW = datetime(2026, 11, 23, 17, 0, 0, 250_000, tzinfo=UTC)
SESSION = "sesn_01AbC"
ENVIRONMENT = "env_01"
NAME = names.resource_name(SESSION)
CLAIM = "20261123T165959.000000Z"
POLICY = EffectiveStatus(
    template="managed-session-worker:1",
    timeout_seconds=900,
    max_idle_seconds=10,
    min_idle_seconds=2,
    attach_timeout_seconds=60,
    log_level="INFO",
    idle_ttl_seconds=0,
    ttl_seconds_after_end=3600,
    on_sandbox_lost=OnSandboxLost.RECREATE,
    pause_while_waiting_seconds=60,
)


def ago(seconds: float) -> datetime:
    """Return the time `seconds` before NOW."""
    return NOW - timedelta(seconds=seconds)


def body(
    name: str = NAME,
    *,
    uid: str = "uid-1",
    version: int = 1,
    session: str = SESSION,
    created: str = "2026-11-23T16:00:00Z",
    status: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Return a resource as JSON. By default it is verified: it has an environment and a finalizer."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": name,
            "namespace": names.RESOURCE_NAMESPACE,
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": created,
            "finalizers": [names.FINALIZER],
            **metadata,
        },
        "spec": {"sessionID": session, "environmentID": ENVIRONMENT, **(spec or {})},
        "status": status or {},
    }


def session(status: dict[str, Any] | None = None, **more: Any) -> ManagedSession:
    """Return the typed form of `body`."""
    return ManagedSession.model_validate(body(status=status, **more))


def summary(status: dict[str, Any] | None = None, **more: Any) -> ResourceSummary:
    """Return the summary of `body`."""
    return summary_of(body(status=status, **more), session(status, **more))


def class_body(
    name: str = "gold",
    *,
    version: int = 1,
    generation: int = 7,
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    uid: str | None = None,
) -> dict[str, Any]:
    """Return a class as JSON."""
    metadata = {
        "name": name,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "generation": generation,
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.CLASS_KIND,
        "metadata": metadata,
        "spec": spec or {},
        "status": status or {},
    }


def session_class(name: str = "gold", **more: Any) -> ManagedSessionClass:
    """Return the typed form of `class_body`."""
    return ManagedSessionClass.model_validate(class_body(name, **more))


def observation(**known: Any) -> Observation:
    """Return an observation in which nothing special is known."""
    return Observation(
        **{"now": NOW, "environment_id": ENVIRONMENT, "policy": POLICY, "serving_name": NAME, **known}
    )


def policy(**changed: Any) -> EffectiveStatus:
    """Return POLICY with changes."""
    return POLICY.model_copy(update=changed)


def offer(seconds_ago: float = 1.0) -> Offer:
    """Return an offer of the session's work."""
    return Offer(SESSION, SESSION, ENVIRONMENT, ago(seconds_ago), SecretStr("wrapped"))


def record(reason: str = "Idle", *, heartbeat: bool = True) -> ExitRecord:
    """Return a worker's exit record."""
    first = to_wire(ago(30)) if heartbeat else None
    return ExitRecord.model_validate({"claim": CLAIM, "reason": reason, "firstHeartbeatAt": first})


def run(**known: Any) -> WorkerRun:
    """Return a worker whose stream is open."""
    return WorkerRun(CLAIM, "isandbox", **{"accepted": True, **known})


def announced_run(seconds_ago: float = 1.0, type_: str = RUN_STARTED) -> dict[str, Any]:
    """Return `status.lastEvent` of an announced run."""
    return {"id": f"whe_{seconds_ago}", "type": type_, "createdAt": to_wire(ago(seconds_ago))}


def work(
    *,
    acknowledged: float | None = None,
    heartbeat: float | None = None,
    finished: float | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """Return `status.work` of CLAIM. The arguments are seconds before NOW."""
    known = {
        "id": SESSION,
        "claim": CLAIM,
        "offeredAt": to_wire(ago(100)),
        "acknowledgedAt": None if acknowledged is None else to_wire(ago(acknowledged)),
        "firstHeartbeatAt": None if heartbeat is None else to_wire(ago(heartbeat)),
        "finishedAt": None if finished is None else to_wire(ago(finished)),
        "exitReason": reason,
    }
    return {key: value for key, value in known.items() if value is not None}


RUNNING = {"id": "isandbox", "state": "Running", "attempt": 1}
PAUSED = {"id": "isandbox", "state": "Paused", "attempt": 1}
CREATING = {"state": "Creating", "attempt": 1}
LOST = {"state": "Lost", "attempt": 1}


def settings(**changed: Any) -> OperatorSettings:
    """Return an installation's settings: the defaults, with these changes."""
    return OperatorSettings.model_validate(changed)


def key(*lines: str) -> RotatingKey:
    """Return a key with these lines."""
    values = [SecretStr(line) for line in lines or ("sk-key",)]
    return RotatingKey("a-key", lambda: values)
