"""Decides about sandboxes that several sessions share. Pure.

A ManagedSandbox owns such a sandbox: it has the sandbox's ID and the number of the newest attempt, and the
sandbox's metadata name it. The sessions refer to it (`status.sandbox.sharedBy`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from managed_session_api import names
from managed_session_api.conditions import ConditionStatus, Reason
from managed_session_api.managed_sandbox import ManagedSandbox, SharedScope, SharedState
from managed_session_api.resource import ManagedSession
from managed_session_api.times import to_wire

from managed_session_operator.domain.conditions import ConditionUpdate, merge_conditions, sandbox_ready
from managed_session_operator.domain.sandbox import SandboxView, adoption_order

REMEMBERED = 8
"""Maximum number of vanished sandboxes whose IDs are kept: the newest. The CRD has the same limit."""
MOST_DEPARTED = 1000
"""Maximum number of deleted sessions whose files wait for their removal. The CRD has the same limit."""


def shared_metadata(owner: ManagedSandbox, installation: str) -> dict[str, str]:
    """Return the metadata by which the owner's sandboxes are found in E2B's list."""
    return {
        names.METADATA_INSTALLATION: installation,
        names.METADATA_RESOURCE_UID: owner.identity,
        names.METADATA_SHARED: owner.metadata.name,
    }


def is_shared(view: SandboxView) -> bool:
    """Return whether the sandbox was created for a ManagedSandbox."""
    return names.METADATA_SHARED in view.metadata


def belongs_to(view: SandboxView, owner: ManagedSandbox | None) -> bool:
    """Return whether the sandbox was created for this owner, and not for an earlier one of its name."""
    return owner is not None and view.metadata.get(names.METADATA_RESOURCE_UID) == owner.identity


def adoptable(owner: ManagedSandbox, listed: Iterable[SandboxView]) -> list[SandboxView]:
    """Return the owner's sandboxes that it may adopt, best first."""
    return adoption_order(listed, attempt=owner.status.attempt, vanished=owner.status.vanished)


def is_superseded(owner: ManagedSandbox, view: SandboxView) -> bool:
    """Return whether the owner uses another sandbox, so that nobody will ever need this one."""
    status = owner.status
    settled = status.id is not None and view.sandbox_id not in status.vanished
    return settled and status.id != view.sandbox_id and view.attempt <= status.attempt


def is_abandoned(owner: ManagedSandbox, view: SandboxView) -> bool:
    """Return whether the owner uses no sandbox, and will not use this one."""
    status = owner.status
    settled = status.id is None and status.state is not SharedState.CREATING
    return settled and view.sandbox_id not in status.vanished and view.attempt <= status.attempt


def may_belong(resource: ManagedSession, owner: ManagedSandbox) -> bool:
    """Return whether a session that records no sandbox may have files in that of the owner.

    A session whose status was removed, as by a backup without it, finds its sandbox again with its next turn.
    One whose status knows of a turn or of a sandbox of its own still has its status: it does not keep the
    owner from its end.
    """
    status, spec = resource.status, owner.spec
    if status.sandbox.id is not None or status.sandbox.shared_by is not None:
        return False
    if status.turns > 0 or status.last_active_time is not None:
        return False
    if status.sandbox.state is not None or status.sandbox.attempt > 0:
        return False
    if (
        resource.metadata.deletion_timestamp is not None
        or resource.spec.environment_id != spec.environment_id
    ):
        return False
    return spec.scope is SharedScope.ENVIRONMENT or resource.spec.agent_id == spec.key


def lost_fields(owner: ManagedSandbox, sandbox_id: str) -> dict[str, Any]:
    """Return the fields of the status that record that the sandbox is gone; empty if it uses another one."""
    if owner.status.id != sandbox_id:
        return {}
    remembered = [each for each in owner.status.vanished if each != sandbox_id]
    return {
        "id": None,
        "state": SharedState.LOST,
        "startedAt": None,
        "vanished": [*remembered, sandbox_id][-REMEMBERED:],
    }


def countdown(view: SandboxView, timeout_seconds: int, now: datetime) -> int:
    """Return the seconds at which to restart the countdown, so that no other session's gets shorter."""
    return max(timeout_seconds, math.ceil((view.end_at - now).total_seconds()))


_CONDITIONS = {
    SharedState.CREATING: (ConditionStatus.FALSE, Reason.PROVISIONING),
    SharedState.RUNNING: (ConditionStatus.TRUE, Reason.SANDBOX_RUNNING),
    SharedState.PAUSED: (ConditionStatus.TRUE, Reason.SANDBOX_PAUSED),
    SharedState.LOST: (ConditionStatus.FALSE, Reason.SANDBOX_VANISHED),
    None: (ConditionStatus.FALSE, Reason.NO_SANDBOX),
}


def _condition(state: SharedState | None) -> ConditionUpdate:
    return sandbox_ready(*_CONDITIONS[state])


def owner_patch(owner: ManagedSandbox, now: datetime, fields: dict[str, Any]) -> dict[str, Any]:
    """Return a merge patch of the owner's status; empty if nothing would change."""
    current = owner.status.to_json()
    patch = {}
    for name, value in fields.items():
        wanted = to_wire(value) if isinstance(value, datetime) else value
        if current.get(name) != wanted and not (wanted == [] and name not in current):
            patch[name] = wanted
    if "state" in patch:
        patch["state"] = None if patch["state"] is None else str(patch["state"])
        patch["observedGeneration"] = owner.metadata.generation
        conditions = merge_conditions(owner, [_condition(fields["state"])], now)
        if conditions is not None:
            patch["conditions"] = conditions
    return patch
