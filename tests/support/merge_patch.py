"""What a merge patch makes of a document."""

from typing import Any


def merge_patch(current: Any, patch: Any) -> Any:
    """The document after the patch (RFC 7396), as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged
