"""The JSON schema of the chart's values: what a value may be, and which settings there are."""
# ruff: noqa: INP001 - belongs to a script, not to the package

from __future__ import annotations

from typing import Any

from managed_session_dashboard.settings import DashboardSettings
from managed_session_operator.settings import OperatorSettings
from managed_session_runtime.settings import Settings, describe_settings
from managed_session_webhook.settings import WebhookSettings

OF_LIBRARIES = (
    "^(OTEL_[A-Z_]+|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|ANTHROPIC_BASE_URL"
    "|E2B_(API_URL|SANDBOX_URL|DOMAIN|MAX_CONNECTIONS))$"
)
"""Variables that the processes' libraries read."""
CHOSEN_BY_THE_CHART = {"MANAGED_SESSIONS_NAMESPACE", "MANAGED_SESSIONS_SYSTEM_NAMESPACE"}
OPEN = {"annotations", "labels", "podAnnotations", "podLabels", "nodeSelector", "affinity", "resources",
        "podSecurityContext"}  # fmt: skip
"""Values whose content Kubernetes defines."""
NAMESPACE = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
SPECIAL: dict[str, dict[str, Any]] = {
    "resourceNamespace": NAMESPACE,
    "replicas": {"type": "integer", "minimum": 0},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "repository": {"type": "string", "pattern": "^[^:@\\s]+(:[0-9]+/[^:@\\s]+)?$"},
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "credentialsSecret": {"type": "string", "minLength": 1},
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}
"""Values that may not be just anything of the type of their default."""


def schema(values: dict[str, Any]) -> dict[str, Any]:
    """Return the schema for values that have these defaults. A value that is not there is refused."""
    made = _of("", values)
    made["properties"]["global"] = {"type": "object"}  # where a chart that contains this one puts its own
    for path, settings in (
        (("settings",), Settings),
        (("operator", "settings"), OperatorSettings),
        (("webhook", "settings"), WebhookSettings),
        (("dashboard", "settings"), DashboardSettings),
    ):
        place = made["properties"]
        for name in path[:-1]:
            place = place[name]["properties"]
        place[path[-1]] = _settings(settings)
    ingress = made["properties"]["webhook"]["properties"]["ingress"]
    ingress["if"] = {"properties": {"enabled": {"const": True}}}
    ingress["then"] = {"properties": {"host": {"minLength": 1}}}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "managed-sessions", **made}


def _of(name: str, value: Any) -> dict[str, Any]:
    if name in SPECIAL:
        return SPECIAL[name]
    if isinstance(value, dict):
        if name in OPEN:
            return {"type": "object"}
        properties = {key: _of(key, each) for key, each in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if isinstance(value, list):
        return {"type": "array", "items": {"type": "object"}}
    return {"type": "boolean" if isinstance(value, bool) else "string"}


def _settings(settings: type[Settings]) -> dict[str, Any]:
    known = [row for row in describe_settings(settings) if row.variable not in CHOSEN_BY_THE_CHART]
    scalar = {"type": ["string", "number", "boolean"]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {row.variable: {**scalar, "description": row.description} for row in known},
        "patternProperties": {OF_LIBRARIES: scalar},
    }
