"""Finds out what an apply changes, by comparing objects before and after it."""

from __future__ import annotations

import copy
from enum import StrEnum

from managed_session_cli.cluster import Object

_BOOKKEEPING = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid", "selfLink")


class Change(StrEnum):
    """What an apply did, or would do, to an object."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"


def change(before: Object | None, after: Object) -> Change:
    """Return how an apply's answer differs from the object before, apart from the server's bookkeeping."""
    if before is None:
        return Change.CREATED
    return Change.UNCHANGED if _essence(before) == _essence(after) else Change.CONFIGURED


def _essence(manifest: Object) -> Object:
    essence = copy.deepcopy(manifest)
    essence.pop("status", None)
    for field in _BOOKKEEPING:
        essence["metadata"].pop(field, None)
    annotations = essence["metadata"].get("annotations", {})
    annotations.pop("deployment.kubernetes.io/revision", None)
    if not annotations:
        essence["metadata"].pop("annotations", None)
    return essence
