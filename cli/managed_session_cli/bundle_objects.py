"""Says what of each object a support archive has. Pure.

Only fields that are named here keep their text. Everything else that is text is replaced, so that a field of
a newer version, or of somebody else, is never taken along by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from managed_session_api.names import CLASS_KIND, DOMAIN, KIND, SHARED_KIND

from managed_session_cli.cluster import Object
from managed_session_cli.redaction import REDACTED, Path, masked, texts

_OUR_LABELS = ("app.kubernetes.io/", "kubernetes.io/metadata.name", "pod-template-hash")
_OUR_ANNOTATIONS = (f"{DOMAIN}/", "deployment.kubernetes.io/revision")
_METADATA = frozenset(
    {
        *("name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp"),
        *("deletionTimestamp", "finalizers", "ownerReferences"),
    }
)
_POLICY_FIELDS = (
    *("template", "timeoutSeconds", "maxIdleSeconds", "minIdleSeconds", "attachTimeoutSeconds"),
    *("pauseWhileWaitingSeconds", "maxParallelCalls", "logLevel"),
    *("idleTTLSeconds", "ttlSecondsAfterEnd", "onSandboxLost"),
    *("deletionPolicy", "snapshots", "scope", "autoResume", "allowPublicTraffic", "fromSnapshot", "origins"),
)
_WORK_FIELDS = (
    *("id", "claim", "offeredAt", "acknowledgedAt", "startedAt", "firstHeartbeatAt", "servingLateSince"),
    *("awaitingUserSince", "waitPausedAt", "waitResumedAt", "finishedAt", "exitReason", "stopReason"),
    *("quickReturns", "returnBalance"),
)
_SESSION: tuple[Path, ...] = (
    *(("spec", each) for each in ("sessionID", "environmentID", "agentID", "routing", "lifecycle", "worker")),
    ("spec", "requests"),
    *(("spec", "sandbox", each) for each in _POLICY_FIELDS),
    *(("status", "effective", each) for each in _POLICY_FIELDS),
    *(("status", each) for each in ("phase", "lastEvent", "recovery", "snapshots", "requests", "class")),
    *(("status", each) for each in ("activeToday", "turns", "lastActiveTime", "endedAt", "conditions")),
    *(("status", "work", each) for each in _WORK_FIELDS),
    ("status", "sandbox"),
    ("status", "callDeaths", "tool"),
    ("status", "cost"),
)
_KEPT: dict[str, tuple[Path, ...]] = {
    KIND: _SESSION,
    SHARED_KIND: (("spec",), ("status",)),
    CLASS_KIND: (
        ("status",),
        ("spec", "limits"),
        ("spec", "locked"),
        ("spec", "lifecycle"),
        ("spec", "worker"),
        *(("spec", "sandbox", each) for each in _POLICY_FIELDS),
    ),
    "Lease": (("spec",),),
    "Event": (
        *((each,) for each in ("reason", "message", "type", "action", "firstTimestamp", "lastTimestamp")),
        *((each,) for each in ("eventTime", "involvedObject", "reportingComponent", "source")),
    ),
    "Pod": (
        ("spec", "nodeName"),
        ("spec", "containers", "name"),
        ("spec", "containers", "image"),
        ("spec", "containers", "resources"),
        ("status",),
    ),
    "CustomResourceDefinition": (("status",), ("spec",)),
    "EndpointSlice": (("ports",), ("endpoints", "conditions"), ("endpoints", "targetRef")),
}
_CONTAINERS: Path = ("spec", "template", "spec", "containers")
_KEPT["Deployment"] = (
    ("status",),
    ("spec", "strategy"),
    ("spec", "selector"),
    *((*_CONTAINERS, each) for each in ("name", "image", "resources")),
)
_OUR_SETTINGS = "MANAGED_SESSIONS_"


def harmless(found: Object, kind: str) -> Object:
    """Return what the archive has of an object."""
    if kind == "Secret":
        return _secret(found)
    rest = {key: value for key, value in found.items() if key != "metadata"}
    if kind == "ConfigMap":
        rest["data"] = {key: _setting(key, value) for key, value in (found.get("data") or {}).items()}
        kept: tuple[Path, ...] = (("data",),)
    else:
        kept = _KEPT.get(kind, ())
    if kind == "CustomResourceDefinition":
        rest["spec"] = _versions(found.get("spec") or {})
    shown = masked(rest, (("apiVersion",), ("kind",), *kept))
    _show_variables(shown, found)
    return {**shown, "kind": kind, "metadata": _metadata(found.get("metadata") or {})}


def suspicious(found: Object, kind: str) -> set[str]:
    """Return texts of an object that may be secret, and that must not be in messages or logs either."""
    metadata = found.get("metadata") or {}
    annotations = (metadata.get("annotations") or {}).items()
    values = {value for key, value in annotations if not key.startswith(_OUR_ANNOTATIONS)}
    values |= {value for key, value in (metadata.get("labels") or {}).items() if not _is_ours(key)}
    spec, status = found.get("spec") or {}, found.get("status") or {}
    if kind in (KIND, CLASS_KIND):
        for policy in (spec.get("sandbox") or {}, status.get("effective") or {}):
            values |= texts({each: policy.get(each) for each in ("env", "metadata")})
    if kind == "ConfigMap":
        values |= texts(
            {k: v for k, v in (found.get("data") or {}).items() if not k.startswith(_OUR_SETTINGS)}
        )
    values |= {
        str(each.get("value"))
        for container in _containers(found)
        for each in container.get("env") or []
        if each.get("value") and not str(each["name"]).startswith(_OUR_SETTINGS)
    }
    return {each for each in values if len(each) >= _LEAST_LETTERS and not each.isdigit()}


_LEAST_LETTERS = 8
"""Shorter texts are hardly secrets."""


def _metadata(metadata: Mapping[str, Any]) -> Object:
    shown = {key: value for key, value in metadata.items() if key in _METADATA}
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    if labels:
        shown["labels"] = {key: value if _is_ours(key) else REDACTED for key, value in labels.items()}
    if annotations:
        shown["annotations"] = {
            key: value if key.startswith(_OUR_ANNOTATIONS) else REDACTED for key, value in annotations.items()
        }
    return shown


def _is_ours(label: str) -> bool:
    return label.startswith(_OUR_LABELS)


def _secret(secret: Object) -> Object:
    """Return which keys a Secret has, and nothing of their values, not even their length."""
    return {
        "kind": "Secret",
        "type": secret.get("type", ""),
        "metadata": _metadata(secret.get("metadata") or {}),
        "keys": sorted(secret.get("data") or {}),
    }


def _versions(spec: Mapping[str, Any]) -> Object:
    """Return what a definition defines, without the schema, which its version says."""
    shown = ("name", "served", "storage")
    versions = [{key: each.get(key) for key in shown} for each in spec.get("versions") or []]
    return {"group": spec.get("group"), "versions": versions}


def _setting(name: str, value: Any) -> Any:
    return value if name.startswith(_OUR_SETTINGS) else REDACTED


def _containers(found: Object) -> list[Object]:
    spec = found.get("spec") or {}
    pod = (spec.get("template") or {}).get("spec") or spec
    return list(pod.get("containers") or []) if isinstance(pod, Mapping) else []


def _show_variables(shown: Object, found: Object) -> None:
    """Show the variables' names, and the values of our settings."""
    for container, original in zip(_containers(shown), _containers(found), strict=True):
        if "env" in original:
            container["env"] = [
                {"name": each["name"], "value": _setting(each["name"], each.get("value", ""))}
                for each in original["env"]
            ]
