"""Reads the state of our CRDs, and compares the fields of two versions, which differ by additions only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from managed_session_api.names import VERSION

from managed_session_cli.cluster import Object


def is_established(live: Object | None) -> bool:
    """Return whether the API server serves the CRD's kind."""
    conditions = ((live or {}).get("status") or {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def has_more_fields(live: Object | None, own: Object) -> bool:
    """Return whether the cluster's CRD has all fields of `own`, and others."""
    return live is not None and fields(live) > fields(own)


def fields(crd: Object) -> set[str]:
    """Return the paths of all fields that the resource may have in our version."""
    versions = [each for each in crd["spec"]["versions"] if each["name"] == VERSION]
    return {path for each in versions for path in _paths(each["schema"]["openAPIV3Schema"], "")}


def _paths(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, child in (schema.get("properties") or {}).items():
        path = f"{prefix}.{name}".lstrip(".")
        yield path
        yield from _paths(child, path)
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from _paths(items, f"{prefix}[]")
