"""Merges the layers of a session's policy: the session's spec, its class, the installation's settings. Pure.

Each field has the value of the first layer that sets it. `metadata` and `env` are merged entry by entry. A
field that the class locks is not taken from the session's spec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from managed_session_api.resource import (
    DeletionPolicy,
    EffectiveStatus,
    LifecycleSpec,
    ManagedSession,
    Model,
    NetworkSpec,
    OnSandboxLost,
    PolicyField,
    RoutingSpec,
    SandboxSpec,
    Scope,
    SnapshotsSpec,
    WorkerSpec,
)
from managed_session_api.session_class import ManagedSessionClass, SessionDefaults

from managed_session_operator.settings import OperatorSettings

SESSION = "session"
SETTINGS = "settings"
_CLASS = "class/"

_PLACES: dict[PolicyField, tuple[str, str]] = {
    PolicyField.SCOPE: ("routing", "scope"),
    PolicyField.TEMPLATE: ("sandbox", "template"),
    PolicyField.FROM_SNAPSHOT: ("sandbox", "from_snapshot"),
    PolicyField.TIMEOUT_SECONDS: ("sandbox", "timeout_seconds"),
    PolicyField.METADATA: ("sandbox", "metadata"),
    PolicyField.ENV: ("sandbox", "env"),
    PolicyField.ENV_FROM: ("sandbox", "env_from"),
    PolicyField.NETWORK: ("sandbox", "network"),
    PolicyField.SECRETS: ("sandbox", "secrets"),
    PolicyField.TRUST: ("sandbox", "trust"),
    PolicyField.PROXY: ("sandbox", "proxy"),
    PolicyField.AUTO_RESUME: ("sandbox", "auto_resume"),
    PolicyField.ALLOW_PUBLIC_TRAFFIC: ("sandbox", "allow_public_traffic"),
    PolicyField.SETUP: ("sandbox", "setup"),
    PolicyField.HOOKS: ("sandbox", "hooks"),
    PolicyField.VOLUMES: ("sandbox", "volumes"),
    PolicyField.BUCKETS: ("sandbox", "buckets"),
    PolicyField.ARCHIL: ("sandbox", "archil"),
    PolicyField.OUTPUTS: ("sandbox", "outputs"),
    PolicyField.MAX_IDLE_SECONDS: ("worker", "max_idle_seconds"),
    PolicyField.MIN_IDLE_SECONDS: ("worker", "min_idle_seconds"),
    PolicyField.ATTACH_TIMEOUT_SECONDS: ("worker", "attach_timeout_seconds"),
    PolicyField.PAUSE_WHILE_WAITING_SECONDS: ("worker", "pause_while_waiting_seconds"),
    PolicyField.MAX_PARALLEL_CALLS: ("worker", "max_parallel_calls"),
    PolicyField.LOG_LEVEL: ("worker", "log_level"),
    PolicyField.IDLE_TTL_SECONDS: ("lifecycle", "idle_ttl_seconds"),
    PolicyField.TTL_SECONDS_AFTER_END: ("lifecycle", "ttl_seconds_after_end"),
    PolicyField.ON_SANDBOX_LOST: ("lifecycle", "on_sandbox_lost"),
    PolicyField.DELETION_POLICY: ("lifecycle", "deletion_policy"),
    PolicyField.SNAPSHOTS: ("lifecycle", "snapshots"),
}
"""Where a layer has each field: the part, and the attribute in it."""

CREATION_FIELDS = (
    PolicyField.TEMPLATE,
    PolicyField.METADATA,
    PolicyField.ENV,
    PolicyField.AUTO_RESUME,
    PolicyField.ALLOW_PUBLIC_TRAFFIC,
    PolicyField.VOLUMES,
    PolicyField.FROM_SNAPSHOT,
    PolicyField.SCOPE,
)
"""Fields that a sandbox gets with its creation and keeps. All other fields follow their layers at once."""

LATER_CREATION_FIELDS: Mapping[PolicyField, Any] = {
    PolicyField.VOLUMES: [],
    PolicyField.FROM_SNAPSHOT: None,
    PolicyField.SCOPE: Scope.SESSION.value,
}
"""Fields that the first versions with classes did not have, and the value of sandboxes from then."""

SHARED_FIELDS = frozenset(
    {
        PolicyField.TEMPLATE,
        PolicyField.FROM_SNAPSHOT,
        PolicyField.TIMEOUT_SECONDS,
        PolicyField.METADATA,
        PolicyField.ENV,
        PolicyField.NETWORK,
        PolicyField.SECRETS,
        PolicyField.TRUST,
        PolicyField.PROXY,
        PolicyField.AUTO_RESUME,
        PolicyField.ALLOW_PUBLIC_TRAFFIC,
        PolicyField.VOLUMES,
        PolicyField.BUCKETS,
        PolicyField.ARCHIL,
        PolicyField.DELETION_POLICY,
        PolicyField.SNAPSHOTS,
    }
)
"""Fields that say what a sandbox is like. A session that shares its sandbox does not set them by itself."""

_NETWORK_UNSET = NetworkSpec()
_SNAPSHOTS_UNSET = SnapshotsSpec()


@dataclass(frozen=True)
class Layer:
    """One source of policy.

    Attributes:
        origin: its name in `status.effective.origins`.
        values: what it sets. Fields that are None or empty are left to the next layer.
    """

    origin: str
    values: SessionDefaults


@dataclass(frozen=True)
class Policy:
    """The options with which a session is served.

    Attributes:
        values: the value and the origin of each field.
        classed: whether a class takes part, so that the status records every field with its origin.
        refused: locked fields that the session's spec sets in vain.
        locked: fields that the session's spec may not set.
        shared: whether the session shares its sandbox.
    """

    values: EffectiveStatus
    classed: bool = False
    refused: tuple[PolicyField, ...] = ()
    locked: frozenset[str] = frozenset()
    shared: bool = False

    def recorded(self, *, full: bool = False) -> dict[str, Any]:
        """Return `status.effective`. Without a class it has only the fields that were always there.

        `full` adds the others, for a session whose sandbox still has values of an earlier class.
        """
        values = self.values.to_json()
        return values if self.classed or full else {each: values[each] for each in _ALWAYS_RECORDED}

    def fingerprints(self) -> dict[str, str]:
        """Return `status.sandbox.createdWith`: a fingerprint of each field that a sandbox is created with."""
        values = self.values.to_json()
        return {
            str(each): fingerprint_of(values.get(each)) for each in (*CREATION_FIELDS, PolicyField.NETWORK)
        }


_ALWAYS_RECORDED = (
    "template",
    "timeoutSeconds",
    "maxIdleSeconds",
    "attachTimeoutSeconds",
    "logLevel",
    "idleTTLSeconds",
    "ttlSecondsAfterEnd",
    "onSandboxLost",
)


def fingerprint_of(value: Any) -> str:
    """Return a short fingerprint of a field's value in JSON form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def settings_layer(settings: OperatorSettings) -> Layer:
    """Return the last layer: the installation's settings."""
    values = SessionDefaults(
        sandbox=SandboxSpec(template=settings.template, timeout_seconds=settings.sandbox_timeout_seconds),
        worker=WorkerSpec(
            max_idle_seconds=settings.max_idle_seconds,
            min_idle_seconds=settings.min_idle_seconds,
            attach_timeout_seconds=settings.attach_timeout_seconds,
            pause_while_waiting_seconds=settings.pause_while_waiting_seconds,
            max_parallel_calls=settings.max_parallel_calls,
            log_level=settings.worker_log_level,
        ),
        lifecycle=LifecycleSpec(
            idle_ttl_seconds=settings.idle_ttl_seconds,
            ttl_seconds_after_end=settings.ttl_seconds_after_end,
            on_sandbox_lost=OnSandboxLost(settings.on_sandbox_lost),
        ),
    )
    return Layer(SETTINGS, values)


def session_layer(resource: ManagedSession) -> Layer:
    """Return the first layer: what the session's own spec sets."""
    spec = resource.spec
    return Layer(
        SESSION,
        SessionDefaults(
            routing=spec.routing, sandbox=spec.sandbox, worker=spec.worker, lifecycle=spec.lifecycle
        ),
    )


def class_layer(serving: ManagedSessionClass) -> Layer:
    """Return the layer of the session's class."""
    return Layer(serving.origin, serving.spec.session)


def recorded_layer(resource: ManagedSession) -> tuple[Layer, frozenset[str]] | None:
    """Return what a class that no longer exists has set, as the status recorded it, and what it locked.

    It applies until the session's next turn, for which a class is chosen anew. None if nothing is recorded.
    """
    effective = resource.status.effective
    if effective is None or effective.origins is None:
        return None
    own, parts, locked = session_layer(resource), dict[str, dict[str, Any]](), set[str]()
    origin = f"{_CLASS}{resource.status.session_class.name}" if resource.status.session_class else _CLASS
    for field, (part, attribute) in _PLACES.items():
        recorded = effective.origins.get(field, "")
        if _CLASS not in recorded:
            continue
        origin = next(each for each in recorded.split("+") if each.startswith(_CLASS))
        parts.setdefault(part, {})[attribute] = getattr(effective, attribute)
        if SESSION not in recorded.split("+") and _given(own.values, field) is not None:
            locked.add(field)
    if not parts:
        return None
    # Built without validation: the values come from models.
    values = SessionDefaults(
        routing=RoutingSpec(**parts.get("routing", {})),
        sandbox=SandboxSpec(**parts.get("sandbox", {})),
        worker=WorkerSpec(**parts.get("worker", {})),
        lifecycle=LifecycleSpec(**parts.get("lifecycle", {})),
    )
    return Layer(origin, values), frozenset(locked)


def merge(
    layers: Sequence[Layer],
    locked: Iterable[str] = (),
    *,
    classed: bool = False,
    shared: bool | None = None,
) -> Policy:
    """Merge the layers, the one that takes precedence first.

    Args:
        layers: of which the first is the session's own, and the last has every field that needs a value.
        locked: fields that are not taken from the first layer.
        classed: whether a class is among the layers.
        shared: whether the session shares its sandbox; None if the layers decide.
    """
    own, rest = layers[0], layers[1:]
    barred = frozenset(locked)
    if shared is None:
        scope = _merged(rest if PolicyField.SCOPE in barred else layers, PolicyField.SCOPE)[0]
        shared = scope is not Scope.SESSION
    if shared:
        barred |= SHARED_FIELDS
    values, origins, refused = dict[str, Any](), dict[str, str](), list[PolicyField]()
    for field in PolicyField:
        if field in barred and _given(own.values, field) is not None:
            refused.append(field)
        sources = rest if field in barred else layers
        values[_PLACES[field][1]], origins[field] = _merged(sources, field)
    return Policy(EffectiveStatus(**values, origins=origins), classed, tuple(refused), barred, shared)


def _merged(layers: Sequence[Layer], field: PolicyField) -> tuple[Any, str]:
    found = [(value, each.origin) for each in layers if (value := _given(each.values, field)) is not None]
    if field in (PolicyField.METADATA, PolicyField.ENV):
        entries: dict[str, str] = {}
        contributing = list[str]()
        for value, origin in found:
            added = {key: each for key, each in value.items() if key not in entries}
            if added:
                entries |= added
                contributing.append(origin)
        return entries, "+".join(contributing) or SETTINGS
    if found:
        return found[0]
    return _WITHOUT_LAYER.get(field), SETTINGS


_WITHOUT_LAYER: Mapping[PolicyField, Any] = {
    PolicyField.SCOPE: Scope.SESSION,
    PolicyField.NETWORK: _NETWORK_UNSET,
    PolicyField.AUTO_RESUME: False,
    PolicyField.ALLOW_PUBLIC_TRAFFIC: False,
    PolicyField.VOLUMES: (),
    PolicyField.BUCKETS: (),
    PolicyField.ARCHIL: (),
    PolicyField.DELETION_POLICY: DeletionPolicy.DELETE,
    PolicyField.SNAPSHOTS: _SNAPSHOTS_UNSET,
}
"""Values of fields that no layer has to set."""


def _given(values: SessionDefaults, field: PolicyField) -> Any:
    """Return what the layer sets; None if it leaves the field to the next one."""
    part, attribute = _PLACES[field]
    section: Model = getattr(values, part)
    value = getattr(section, attribute)
    return None if value in ("", {}, []) else value
