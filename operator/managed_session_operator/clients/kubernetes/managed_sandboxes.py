"""Reads and writes the ManagedSandboxes of a namespace."""

from __future__ import annotations

import uuid

from managed_session_api import names
from managed_session_api.managed_sandbox import ManagedSandbox, ManagedSandboxSpec
from managed_session_runtime.api_server_requests import Body

from managed_session_operator.clients.kubernetes.calls import translated_errors
from managed_session_operator.clients.kubernetes.kind import Kind
from managed_session_operator.domain.errors import OperationError, ResourceGoneError


class ManagedSandboxes(Kind):
    """The ManagedSandboxes of a namespace. Every call raises OperationError if it fails."""

    _plural = names.SHARED_PLURAL
    _kind = names.SHARED_KIND

    async def get(self, name: str) -> Body | None:
        """Return the newest version of the resource, from etcd."""
        with translated_errors("get shared sandbox"):
            return await self._client.get(name)

    async def list(self) -> list[Body] | None:
        """Return all resources of the namespace; None if the cluster does not have the kind."""
        try:
            with translated_errors("list shared sandboxes"):
                return [body async for body in self._client.list_all()]
        except OperationError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, name: str, spec: ManagedSandboxSpec) -> Body:
        """Create the resource (raises ConflictError if it exists)."""
        with translated_errors("create shared sandbox"):
            return await self._client.create(
                name,
                spec.to_json(),
                finalizers=[names.FINALIZER],
                # Random, because the UID is not known yet. It survives a restore from a backup.
                annotations={names.ANNOTATION_IDENTITY: str(uuid.uuid4())},
            )

    async def patch_status(self, owner: ManagedSandbox, status: Body) -> Body:
        """Merge `status` into the status, if the resource has not changed since it was read.

        Raises:
            ConflictError: the resource has changed.
            ResourceGoneError: the resource no longer exists.
        """
        with translated_errors("shared sandbox status"):
            return await self._client.patch_status(
                owner.metadata.name, owner.metadata.resource_version, status
            )

    async def remove(self, owner: ManagedSandbox) -> None:
        """Delete the resource and our finalizer, if it has not changed since it was read.

        Raises:
            ConflictError: the resource has changed.
        """
        name, version = owner.metadata.name, owner.metadata.resource_version
        with translated_errors("delete shared sandbox"):
            try:
                if owner.metadata.deletion_timestamp is None:
                    deleted = await self._client.delete(
                        name, uid=owner.metadata.uid, resource_version=version
                    )
                    if deleted is None:
                        return
                    version = deleted["metadata"]["resourceVersion"]
                left = [each for each in owner.metadata.finalizers if each != names.FINALIZER]
                await self._client.patch(name, version, {"metadata": {"finalizers": left}})
            except ResourceGoneError:
                return
