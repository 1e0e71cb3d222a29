"""Derives from a session's policy its sandbox and its variables."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from managed_session_api import names
from managed_session_api.resource import EffectiveStatus, ManagedSession
from managed_session_api.session_class import ManagedSessionClass

from managed_session_operator.domain.destinations import destinations
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
    Most sessions set nothing themselves, so policies that come from the same values are one object.
    """
    status = resource.status
    recorded = status.session_class is not None and serving is None and status.effective is not None
    key = (
        id(settings),
        resource.spec.model_dump_json(include=_LAYER),
        serving.model_dump_json(include=_CLASS_LAYER) if serving is not None else "",
        status.session_class.name if status.session_class is not None else "",
        status.effective.model_dump_json() if recorded and status.effective is not None else "",
        _shares(resource),
    )
    known = _merged_before.get(key)
    # The settings are kept with the policy, so that no others can have their identity.
    if known is None or known[0] is not settings:
        known = (settings, _merge(resource, settings, serving))
        _merged_before[key] = known
        if len(_merged_before) > _MOST_KEPT:
            _merged_before.popitem(last=False)
    return known[1]


_MOST_KEPT = 512
_LAYER = {"routing", "sandbox", "worker", "lifecycle"}
_CLASS_LAYER: Any = {"metadata": {"name", "uid", "generation"}, "spec": True}
_merged_before: OrderedDict[tuple[object, ...], tuple[OperatorSettings, Policy]] = OrderedDict()


def _merge(
    resource: ManagedSession, settings: OperatorSettings, serving: ManagedSessionClass | None
) -> Policy:
    own, last, shared = session_layer(resource), settings_layer(settings), _shares(resource)
    if serving is not None:
        return merge([own, class_layer(serving), last], serving.spec.locked, classed=True, shared=shared)
    if resource.status.session_class is not None and (kept := recorded_layer(resource)) is not None:
        return merge([own, kept[0], last], kept[1], classed=True, shared=shared)
    return merge([own, last], shared=shared)


def policy_without_class(resource: ManagedSession, settings: OperatorSettings) -> Policy:
    """Return the policy that the session has without any class."""
    return merge([session_layer(resource), settings_layer(settings)], shared=_shares(resource))


def _shares(resource: ManagedSession) -> bool | None:
    """Return whether the session's sandbox is shared; None if it has none, so that its policy decides."""
    sandbox = resource.status.sandbox
    return sandbox.shared_by is not None if sandbox.id is not None else None


def sandbox_metadata(resource: ManagedSession, installation: str) -> dict[str, str]:
    """Return the metadata by which the resource's sandboxes are found in E2B's list."""
    return {
        names.METADATA_INSTALLATION: installation,
        names.METADATA_RESOURCE_UID: resource.identity,
        names.METADATA_SESSION: resource.spec.session_id,
    }


def sandbox_request(
    resource: ManagedSession, policy: Policy, attempt: int, installation: str, base_url: str
) -> SandboxRequest:
    """Return the request that creates the sandbox of the attempt."""
    identity, source = sandbox_metadata(resource, installation), resource.status.sandbox.from_snapshot
    return creation_request(policy, identity, attempt, base_url, source)


def creation_request(
    policy: Policy, identity: Mapping[str, str], attempt: int, base_url: str, source: str | None = None
) -> SandboxRequest:
    """Return the request that creates a sandbox with this identity in its metadata.

    It has no value of a Secret, so that a repeated request is the same whatever has been rotated meanwhile.
    The sandbox gets its headers before its worker starts.
    """
    values = policy.values
    allow, deny = destinations(policy, base_url)
    return SandboxRequest(
        template=source or values.template,
        timeout_seconds=values.timeout_seconds,
        metadata={
            **(values.metadata or {}),
            **identity,
            names.METADATA_ATTEMPT: str(attempt),
        },
        env={name: value for name, value in (values.env or {}).items() if not _STEERING.fullmatch(name)},
        allow=allow,
        deny=deny,
        auto_resume=bool(values.auto_resume),
        allow_public_traffic=bool(values.allow_public_traffic),
        volumes=tuple(values.volumes or ()),
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
