"""Defines a change of a resource's status that waits for the next write, so that both are one.

A write per step would cost the API server as much as the steps themselves. What is held is known to this
process only: after a crash the next leader finds the resource as it was before the change, and has to go on
from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from managed_session_api.resource import ManagedSession, Status

Patch = dict[str, Any]


def composed(first: Patch, second: Patch) -> Patch:
    """Return the JSON merge patch that does what `first` and then `second` do."""
    merged = dict(first)
    for key, value in second.items():
        known = merged.get(key)
        merged[key] = composed(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _applied(document: Patch, patch: Patch) -> Patch:
    """Return the document after the JSON merge patch."""
    result = dict(document)
    for key, value in patch.items():
        known = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _applied(known if isinstance(known, dict) else {}, value)
        else:
            result[key] = value
    return result


@dataclass
class HeldStatus:
    """A change of the status of one claim that is not written yet.

    Attributes:
        uid: UID of the resource.
        claim: the claim that the change belongs to.
        since: when it was made, by the monotonic clock.
        patch: a JSON merge patch of the status.
    """

    uid: str
    claim: str | None
    since: float
    patch: Patch
    _seen: tuple[ManagedSession, ManagedSession] | None = field(default=None, repr=False)

    def applies_to(self, resource: ManagedSession) -> bool:
        """Return whether the change is still about what the resource records."""
        work = resource.status.work
        return resource.metadata.uid == self.uid and (work.claim, work.finished_at) == (self.claim, None)

    def shown(self, resource: ManagedSession) -> ManagedSession:
        """Return the resource as it will be after the write."""
        if self._seen is None or self._seen[0] is not resource:
            status = Status.model_validate(_applied(resource.status.to_json(), self.patch))
            self._seen = (resource, resource.model_copy(update={"status": status}))
        return self._seen[1]
