"""The ManagedSandbox resources of an API server, in memory."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from managed_session_api import names
from managed_session_api.managed_sandbox import ManagedSandbox, ManagedSandboxSpec
from managed_session_operator.domain.errors import ConflictError, ResourceGoneError

from ...support.merge_patch import merge_patch


@dataclass
class InMemoryManagedSandboxes:
    """The resources by name. A write on the basis of an older version is refused."""

    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = 0

    async def get(self, name: str) -> dict[str, Any] | None:
        """Return the newest resource."""
        return self.bodies.get(name)

    async def list(self) -> list[dict[str, Any]] | None:
        """Return all resources."""
        return [*self.bodies.values()]

    async def create(self, name: str, spec: ManagedSandboxSpec) -> dict[str, Any]:
        """Create the resource."""
        if name in self.bodies:
            raise ConflictError(name)
        metadata = {
            "name": name,
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "finalizers": [names.FINALIZER],
            "annotations": {names.ANNOTATION_IDENTITY: str(uuid.uuid4())},
        }
        return self._write(name, {"metadata": metadata, "spec": spec.to_json(), "status": {}})

    async def patch_status(self, owner: ManagedSandbox, status: dict[str, Any]) -> dict[str, Any]:
        """Merge `status` into the status."""
        body = self._checked(owner)
        if body is None:
            raise ResourceGoneError(owner.metadata.name)
        return self._write(
            owner.metadata.name, {**body, "status": merge_patch(body.get("status", {}), status)}
        )

    async def remove(self, owner: ManagedSandbox) -> None:
        """Delete the resource."""
        if self._checked(owner) is not None:
            del self.bodies[owner.metadata.name]

    def _checked(self, owner: ManagedSandbox) -> dict[str, Any] | None:
        body = self.bodies.get(owner.metadata.name)
        if body is not None and body["metadata"]["resourceVersion"] != owner.metadata.resource_version:
            raise ConflictError(owner.metadata.name)
        return body

    def _write(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.version)}
        self.bodies[name] = {**body, "metadata": metadata}
        return self.bodies[name]
