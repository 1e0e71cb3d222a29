"""Which fields a CustomResourceDefinition knows: additions are all that tells two versions of ours apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from managed_session_api.names import VERSION

from managed_session_cli.cluster import Object


def has_more_fields(live: Object | None, own: Object) -> bool:
    """Whether the cluster's definition knows all fields of `own`, and others."""
    return live is not None and fields(live) > fields(own)


def fields(definition: Object) -> set[str]:
    """The paths of all fields that the resource may have in our version."""
    versions = [each for each in definition["spec"]["versions"] if each["name"] == VERSION]
    return {path for each in versions for path in _paths(each["schema"]["openAPIV3Schema"], "")}


def _paths(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, child in (schema.get("properties") or {}).items():
        path = f"{prefix}.{name}".lstrip(".")
        yield path
        yield from _paths(child, path)
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from _paths(items, f"{prefix}[]")
