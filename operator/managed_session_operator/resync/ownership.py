"""Finds the resource to which a sandbox of E2B's list belongs."""

from __future__ import annotations

from managed_session_api import names
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.resource_summary import ResourceSummary
from managed_session_operator.domain.sandbox import SandboxView


class Owners:
    """The owners of sandboxes among the resources.

    A sandbox belongs to the resource that records it, or else to the one whose identity and session it
    carries. If two resources have the same identity (a copy made by hand), the one that serves the session
    owns the sandbox.
    """

    def __init__(self, store: ResourceCache) -> None:
        self._store = store

    def of(self, view: SandboxView) -> ManagedSession | None:
        """Return the resource to which the sandbox belongs."""
        owner = self.summary_of(view)
        return self._store.get(owner.name) if owner is not None else None

    def summary_of(self, view: SandboxView) -> ResourceSummary | None:
        """Return the summary of that resource."""
        if recorded := self._store.of_sandbox(view.sandbox_id):
            return self._serving(recorded)
        metadata = view.metadata
        identity, session_id = metadata.get(names.METADATA_RESOURCE_UID), metadata.get(names.METADATA_SESSION)
        alike = self._store.of_identity(identity or "")
        return self._serving([each for each in alike if each.session_id == session_id])

    def _serving(self, found: list[ResourceSummary]) -> ResourceSummary | None:
        """Return the one of them that serves its session, or else any of them."""
        if len(found) <= 1:
            return found[0] if found else None
        serving = (each for each in found if each.name == self._store.serving_name(each.session_id))
        return next(serving, found[0])


def is_settled(owner: ResourceSummary | None, view: SandboxView) -> bool:
    """Return whether the sandbox is where its resource says it is, with nothing left to compare."""
    return owner is not None and owner.at_rest and view.paused and owner.sandbox_id == view.sandbox_id
