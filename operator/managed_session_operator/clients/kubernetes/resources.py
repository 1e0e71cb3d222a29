"""Reads and writes the ManagedSession resources of a namespace."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence

from managed_session_api import names
from managed_session_api.resource import ManagedSession
from managed_session_runtime.api_server_requests import Body

from managed_session_operator.clients.kubernetes.calls import translated_errors
from managed_session_operator.clients.kubernetes.kind import Kind


class Resources(Kind):
    """ManagedSession resources of a namespace. Every call raises OperationError if it fails."""

    async def get(self, name: str) -> Body | None:
        """Return the newest version of the resource `name`, from etcd."""
        with translated_errors("get"):
            return await self._client.get(name)

    async def pages(self) -> AsyncIterator[Sequence[Body]]:
        """Yield all resources of the namespace page by page."""
        with translated_errors("list"):
            async for page in self._client.pages():
                yield page

    async def create(self, session_id: str, environment_id: str) -> Body:
        """Create the resource of a session whose work was offered.

        Raises:
            ConflictError: the resource already exists.
        """
        with translated_errors("create"):
            return await self._client.create(
                names.resource_name(session_id),
                {"sessionID": session_id, "environmentID": environment_id},
                finalizers=[names.FINALIZER],
                # Random, because the UID is not known yet.
                annotations={names.ANNOTATION_IDENTITY: str(uuid.uuid4())},
            )

    async def patch(self, resource: ManagedSession, body: Body) -> Body:
        """Merge `body` into metadata and spec, if the resource has not changed since it was read.

        Raises:
            ConflictError: the resource has changed.
            ResourceGoneError: the resource no longer exists.
        """
        with translated_errors("patch"):
            return await self._client.patch(resource.metadata.name, resource.metadata.resource_version, body)

    async def patch_status(self, resource: ManagedSession, status: Body) -> Body:
        """Merge `status` into the status, if the resource has not changed (raises as `patch`)."""
        with translated_errors("status"):
            return await self._client.patch_status(
                resource.metadata.name, resource.metadata.resource_version, status
            )

    async def delete(self, resource: ManagedSession) -> Body | None:
        """Request the resource's deletion, if it has not changed since it was read.

        Returns:
            The resource while it waits for its finalizers; None once it is gone.

        Raises:
            ConflictError: the resource has changed.
        """
        with translated_errors("delete"):
            return await self._client.delete(
                resource.metadata.name,
                uid=resource.metadata.uid,
                resource_version=resource.metadata.resource_version,
            )
