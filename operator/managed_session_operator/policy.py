"""The policy in force for a resource: its spec, completed by the installation's settings."""

from __future__ import annotations

import hashlib

from managed_session_api import names
from managed_session_api.resource import EffectiveStatus, ManagedSession, OnSandboxLost

from managed_session_operator.clients.sandboxes import SandboxWishes
from managed_session_operator.settings import OperatorSettings


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def effective_policy(resource: ManagedSession, settings: OperatorSettings) -> EffectiveStatus:
    """What applies to the resource; a field of the spec goes before the installation's setting."""
    sandbox, worker, lifecycle = resource.spec.sandbox, resource.spec.worker, resource.spec.lifecycle
    return EffectiveStatus(
        template=sandbox.template or settings.template,
        timeout_seconds=_first(sandbox.timeout_seconds, settings.sandbox_timeout_seconds),
        max_idle_seconds=_first(worker.max_idle_seconds, settings.max_idle_seconds),
        attach_timeout_seconds=_first(worker.attach_timeout_seconds, settings.attach_timeout_seconds),
        log_level=worker.log_level or settings.worker_log_level,
        idle_ttl_seconds=_first(lifecycle.idle_ttl_seconds, settings.idle_ttl_seconds),
        ttl_seconds_after_end=_first(lifecycle.ttl_seconds_after_end, settings.ttl_seconds_after_end),
        on_sandbox_lost=lifecycle.on_sandbox_lost or OnSandboxLost(settings.on_sandbox_lost),
    )


def sandbox_marks(resource: ManagedSession, installation: str) -> dict[str, str]:
    """The metadata by which the resource's sandboxes are found in E2B's list."""
    return {
        names.METADATA_INSTALLATION: installation,
        names.METADATA_RESOURCE_UID: resource.identity,
        names.METADATA_SESSION: resource.spec.session_id,
    }


def sandbox_wishes(
    resource: ManagedSession, policy: EffectiveStatus, attempt: int, installation: str
) -> SandboxWishes:
    """The body of the create with number `attempt`."""
    sandbox = resource.spec.sandbox
    network = sandbox.network
    return SandboxWishes(
        template=policy.template,
        timeout_seconds=policy.timeout_seconds,
        metadata={
            **sandbox.metadata,
            **sandbox_marks(resource, installation),
            names.METADATA_ATTEMPT: str(attempt),
        },
        env=dict(sandbox.env),
        allow=tuple(network.allow) if network else (),
        deny=tuple(network.deny) if network else (),
        auto_resume=sandbox.auto_resume,
        allow_public_traffic=sandbox.allow_public_traffic,
    )


def idempotency_key(resource_uid: str, attempt: int) -> str:
    """The key of the create with number `attempt`: 64 characters of [0-9a-f], which every server takes."""
    return hashlib.sha256(f"{resource_uid}|{attempt}".encode()).hexdigest()
