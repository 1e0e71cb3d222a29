"""Reads the request body of a create or connect."""

from typing import Any

from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.network import check_network
from managed_session_devkit.simulators.e2b.settings import Settings
from managed_session_devkit.simulators.e2b.templates import identifier


def sandbox_fields(body: dict[str, Any], default_timeout: int, settings: Settings) -> dict[str, Any]:
    """Return the fields of a Sandbox for the body of a create. Raises ApiError 400."""
    seconds = timeout(body.get("timeout"), default_timeout, settings)
    auto_pause = bool(body.get("autoPause"))
    full = body.get("autoPauseMemory") is not False
    auto_resume = bool((body.get("autoResume") or {}).get("enabled"))
    if auto_resume and not full:
        raise ApiError(400, "Auto-resume is not supported with filesystem-only auto-pause")
    network = dict(body.get("network") or {})
    check_network(network)
    mounts = body.get("volumeMounts") or []
    if mounts and not settings.volumes_enabled:
        raise ApiError(400, "Volume mounts are not enabled.")
    metadata = body.get("metadata") or {}
    environment = body.get("envVars") or {}
    for name, mapping in (("metadata", metadata), ("envVars", environment)):
        if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
            raise ApiError(400, f"{name} must be an object of strings")
    return {
        "timeout_seconds": seconds,
        "metadata": dict(metadata),
        "environment": dict(environment),
        "network": network,
        "allow_internet_access": body.get("allow_internet_access"),
        "on_timeout": "pause" if auto_pause else "kill",
        "full_pause_on_timeout": full,
        "auto_resume": auto_resume,
        "volume_mounts": [{"name": str(each["name"]), "path": str(each["path"])} for each in mounts],
        "traffic_token": identifier(32) if network.get("allowPublicTraffic") is False else None,
    }


def timeout(requested: object, default: float, settings: Settings) -> float:
    """Return the countdown that a call requests. Raises ApiError 400."""
    if requested is None:
        return default
    if not isinstance(requested, int) or isinstance(requested, bool) or requested < 1:
        raise ApiError(400, "Timeout must be a number of seconds of at least 1")
    if requested > settings.max_timeout_seconds:
        hours = settings.max_timeout_seconds / 3600
        raise ApiError(400, f"Timeout cannot be greater than {hours:g} hours")
    return requested
