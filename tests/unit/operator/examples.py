"""Resources, offers and surroundings as plain values for the operator's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from managed_session_api import names
from managed_session_api.events import RUN_STARTED
from managed_session_api.resource import EffectiveStatus, ManagedSession, OnSandboxLost
from managed_session_api.times import to_wire
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.clients.worker_runs import ExitRecord, WorkerRun
from managed_session_operator.decisions import Surroundings
from managed_session_operator.offers import Offer
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
    attach_timeout_seconds=60,
    log_level="INFO",
    idle_ttl_seconds=0,
    ttl_seconds_after_end=3600,
    on_sandbox_lost=OnSandboxLost.RECREATE,
)


def ago(seconds: float) -> datetime:
    """The instant `seconds` before NOW."""
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
    """A resource as the API server sends it; proven (environment and finalizer) unless told otherwise."""
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
    """The typed form of `body`."""
    return ManagedSession.model_validate(body(status=status, **more))


def around(**known: Any) -> Surroundings:
    """Surroundings in which nothing special is known."""
    return Surroundings(
        **{"now": NOW, "environment_id": ENVIRONMENT, "policy": POLICY, "serving_name": NAME, **known}
    )


def policy(**changed: Any) -> EffectiveStatus:
    """POLICY with changes."""
    return POLICY.model_copy(update=changed)


def offer(seconds_ago: float = 1.0) -> Offer:
    """An offer of the session's work."""
    return Offer(SESSION, SESSION, ENVIRONMENT, ago(seconds_ago), SecretStr("wrapped"))


def record(reason: str = "Idle", *, heartbeat: bool = True) -> ExitRecord:
    """A worker's exit record."""
    first = to_wire(ago(30)) if heartbeat else None
    return ExitRecord.model_validate({"claim": CLAIM, "reason": reason, "firstHeartbeatAt": first})


def run(**known: Any) -> WorkerRun:
    """A worker whose stream is open."""
    return WorkerRun(CLAIM, "isandbox", **{"accepted": True, **known})


def hint(seconds_ago: float = 1.0, type_: str = RUN_STARTED) -> dict[str, Any]:
    """`status.lastEvent`."""
    return {"id": f"whe_{seconds_ago}", "type": type_, "createdAt": to_wire(ago(seconds_ago))}


def work(
    *,
    acknowledged: float | None = None,
    heartbeat: float | None = None,
    finished: float | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """`status.work` of CLAIM; arguments are seconds before NOW."""
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
    """The settings of an installation that changed nothing else."""
    return OperatorSettings.model_validate(changed)


def key(*lines: str) -> RotatingKey:
    """A key with these lines."""
    values = [SecretStr(line) for line in lines or ("sk-key",)]
    return RotatingKey("a-key", lambda: values)
