"""Says what is mounted in a sandbox: the section `mounts` of its preparation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from managed_session_api.resource import ArchilDisk, Bucket, BucketType, EffectiveStatus, SecretReference

from managed_session_operator.domain import trust
from managed_session_operator.domain.values import Reference

FIELDS = ("volumes", "buckets", "archil")
MOUNT_SECONDS = 120
"""How long one mount may take: the old one is unmounted, the new one mounted and asked."""
RELEASE_SECONDS = 20
"""How long open files may take to be stored before a sandbox is killed."""
_BUCKET_KEYS = {
    BucketType.S3: ("access-key-id", "secret-access-key"),
    BucketType.R2: ("access-key-id", "secret-access-key"),
    BucketType.GCS: ("service-account-key",),
}
_ARCHIL_KEYS = ("mount-token",)


def references(policy: EffectiveStatus) -> Iterable[Reference]:
    """Return the values of Secrets that the mounts need."""
    for bucket in policy.buckets or []:
        yield from _secret(bucket.secret_ref, _BUCKET_KEYS[bucket.type])
    for disk in policy.archil or []:
        yield from _secret(disk.secret_ref, _ARCHIL_KEYS)


def content(policy: EffectiveStatus, values: Mapping[Reference, str]) -> dict[str, Any]:
    """Return what `managed_session_worker.preparation.mounts` gets."""
    mounts: list[dict[str, Any]] = [
        {"step": f"sandbox.volumes[{number}]", "type": "Volume", "name": volume.name, "path": volume.path}
        for number, volume in enumerate(policy.volumes or [])
    ]
    for number, bucket in enumerate(policy.buckets or []):
        keys = _values(bucket.secret_ref, _BUCKET_KEYS[bucket.type], values)
        mounts.append({"step": f"sandbox.buckets[{number}]", **_options(bucket), **keys})
    for number, disk in enumerate(policy.archil or []):
        keys = _values(disk.secret_ref, _ARCHIL_KEYS, values)
        mounts.append({"step": f"sandbox.archil[{number}]", "type": "Archil", **_options(disk), **keys})
    environment = trust.plan_variables(policy, values)
    return {"mounts": mounts, **({"environment": environment} if environment else {})}


def seconds(policy: EffectiveStatus) -> float:
    """Return how long the section may take."""
    count = sum(len(each or []) for each in (policy.volumes, policy.buckets, policy.archil))
    return float(count * MOUNT_SECONDS)


def release_plan(policy: EffectiveStatus) -> dict[str, Any] | None:
    """Return the plan that stores what the agent has written before its sandbox is killed.

    None if no program in the sandbox serves a mount.
    """
    paths = [each.path for each in policy.buckets or []] + [each.path for each in policy.archil or []]
    if not paths:
        return None
    content = {"paths": paths, "seconds": RELEASE_SECONDS}
    return {"seconds": 2 * RELEASE_SECONDS, "sections": [["release", content]]}


def _options(mount: Bucket | ArchilDisk) -> dict[str, Any]:
    options: dict[str, Any] = mount.to_json()
    options.pop("secretRef", None)
    return options


def _secret(reference: SecretReference | None, keys: Iterable[str]) -> Iterable[Reference]:
    return [] if reference is None else [Reference("Secret", reference.name, key) for key in keys]


def _values(
    reference: SecretReference | None, keys: Iterable[str], values: Mapping[Reference, str]
) -> dict[str, Any]:
    if reference is None:
        return {}
    return {"credentials": {key: values[Reference("Secret", reference.name, key)] for key in keys}}
