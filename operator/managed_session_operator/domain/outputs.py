"""Says where the files of an agent's outputs folder are copied to when a turn ends. Pure."""

from __future__ import annotations

from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.resource import EffectiveStatus, ManagedSession

from managed_session_operator.domain.conditions import ConditionUpdate

COPY_SECONDS = 120
"""How long the copies may take. The sandbox runs meanwhile."""
SECTION = "outputs"


class NoSuchBucketError(Exception):
    """The policy names a bucket that it does not mount. Its text says so."""


def copy_plan(policy: EffectiveStatus, session_id: str) -> dict[str, Any] | None:
    """Return the plan that copies the files; None if the policy does not ask for it.

    Raises:
        NoSuchBucketError: the session's buckets lack the one that is named.
    """
    if (wanted := policy.outputs) is None:
        return None
    bucket = next((each for each in policy.buckets or () if each.path == wanted.bucket_path), None)
    if bucket is None:
        raise NoSuchBucketError(f"the session has no bucket at {wanted.bucket_path} (`outputs.bucketPath`)")
    if bucket.read_only:
        raise NoSuchBucketError(f"the bucket at {wanted.bucket_path} is readOnly")
    parts = [part for part in (wanted.prefix, session_id) if part]
    content = {"mount": bucket.path, "folder": "/".join(parts), "seconds": COPY_SECONDS}
    return {"seconds": COPY_SECONDS, "pause": "", "environment": {}, "sections": [[SECTION, content]]}


def outputs_condition(resource: ManagedSession, why: str | None) -> list[ConditionUpdate]:
    """Return what to write about the newest copy. `why`: "" if it succeeded, None if there was none."""
    type_ = ConditionType.OUTPUTS_FAILED
    if why:
        return [ConditionUpdate(type_, ConditionStatus.TRUE, Reason.OUTPUTS_FAILED, why, announced=True)]
    if why == "" and resource.status.condition(type_) is not None:
        return [ConditionUpdate(type_, ConditionStatus.FALSE, Reason.READY, removed=True)]
    return []
