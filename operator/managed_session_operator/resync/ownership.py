"""Finds the resource to which a sandbox of E2B's list belongs."""

from __future__ import annotations

from managed_session_api import names
from managed_session_api.resource import ManagedSession

from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.sandbox import SandboxView


class Owners:
    """The owners of sandboxes among the resources at one moment.

    A sandbox belongs to the resource that records it, or else to the one whose identity and session it
    carries. If two resources have the same identity (a copy made by hand), the one that serves the session
    owns the sandbox.
    """

    def __init__(self, store: ResourceCache) -> None:
        self._by_sandbox: dict[str, ManagedSession] = {}
        self._by_identity: dict[tuple[str, str], ManagedSession] = {}
        for resource in store.all():
            session_id = resource.spec.session_id
            if resource.status.sandbox.id is not None:
                self._by_sandbox[resource.status.sandbox.id] = resource
            if store.serving_name(session_id) == resource.metadata.name:
                self._by_identity[(resource.identity, session_id)] = resource
            else:
                self._by_identity.setdefault((resource.identity, session_id), resource)

    def of(self, view: SandboxView) -> ManagedSession | None:
        """Return the resource to which the sandbox belongs."""
        recorded = self._by_sandbox.get(view.sandbox_id)
        if recorded is not None:
            return recorded
        metadata = view.metadata
        identity, session_id = metadata.get(names.METADATA_RESOURCE_UID), metadata.get(names.METADATA_SESSION)
        return self._by_identity.get((identity or "", session_id or ""))
