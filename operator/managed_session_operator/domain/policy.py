"""Derives from a session's policy its sandbox and its variables."""

from __future__ import annotations

import hashlib
import re

from managed_session_api import names
from managed_session_api.resource import EffectiveStatus, ManagedSession
from managed_session_api.session_class import ManagedSessionClass

from managed_session_operator.domain.policy_layers import (
    Policy,
    class_layer,
    merge,
    recorded_layer,
    session_layer,
    settings_layer,
)
from managed_session_operator.domain.sandbox import SandboxRequest
from managed_session_operator.settings import OperatorSettings

_STEERING = re.compile(
    r"PATH|HOME|ENV|BASH.*|SHELLOPTS|IFS|PS4|PROMPT_COMMAND|LD_.*|GCONV_PATH|LOCPATH|GLIBC_TUNABLES|OPENSSL_.*"
    r"|PYTHON.*|MANAGED_SESSION_.*"
)
"""Variables that influence what a shell, the loader, OpenSSL or an interpreter runs (bash(1), ld.so(8))."""


def policy_of(
    resource: ManagedSession, settings: OperatorSettings, serving: ManagedSessionClass | None = None
) -> Policy:
    """Return the session's policy: its spec over its class over the installation's settings.

    Without a class the values that the status recorded of one still apply, as long as it records the class.
    """
    own, last = session_layer(resource), settings_layer(settings)
    if serving is not None:
        return merge([own, class_layer(serving), last], serving.spec.locked, classed=True)
    if resource.status.session_class is not None and (kept := recorded_layer(resource)) is not None:
        return merge([own, kept[0], last], kept[1], classed=True)
    return merge([own, last])


def policy_without_class(resource: ManagedSession, settings: OperatorSettings) -> Policy:
    """Return the policy that the session has without any class."""
    return merge([session_layer(resource), settings_layer(settings)])


def sandbox_metadata(resource: ManagedSession, installation: str) -> dict[str, str]:
    """Return the metadata by which the resource's sandboxes are found in E2B's list."""
    return {
        names.METADATA_INSTALLATION: installation,
        names.METADATA_RESOURCE_UID: resource.identity,
        names.METADATA_SESSION: resource.spec.session_id,
    }


def sandbox_request(
    resource: ManagedSession, values: EffectiveStatus, attempt: int, installation: str
) -> SandboxRequest:
    """Return the request that creates the sandbox of the attempt."""
    network = values.network
    return SandboxRequest(
        template=values.template,
        timeout_seconds=values.timeout_seconds,
        metadata={
            **(values.metadata or {}),
            **sandbox_metadata(resource, installation),
            names.METADATA_ATTEMPT: str(attempt),
        },
        env={name: value for name, value in (values.env or {}).items() if not _STEERING.fullmatch(name)},
        allow=tuple(network.allow) if network else (),
        deny=tuple(network.deny) if network else (),
        auto_resume=bool(values.auto_resume),
        allow_public_traffic=bool(values.allow_public_traffic),
    )


def commands_env(values: EffectiveStatus) -> dict[str, str]:
    """Return the variables that only the agent's commands get. They are sent with the start request.

    E2B gives the variables of a create to every process, including root's login shells. With `PATH` or
    `LD_PRELOAD` among them, root would run programs of the agent.
    """
    return {name: value for name, value in (values.env or {}).items() if _STEERING.fullmatch(name)}


def idempotency_key(resource_uid: str, attempt: int) -> str:
    """Return the idempotency key of the attempt: 64 characters of [0-9a-f], which every server accepts."""
    return hashlib.sha256(f"{resource_uid}|{attempt}".encode()).hexdigest()
