"""Reads the ManagedSessionClasses of a namespace, and writes their status."""

from __future__ import annotations

from managed_session_api import names
from managed_session_runtime.api_server_requests import Body

from managed_session_operator.clients.kubernetes.calls import translated_errors
from managed_session_operator.clients.kubernetes.kind import Kind
from managed_session_operator.domain.errors import OperationError


class Classes(Kind):
    """The ManagedSessionClasses of a namespace."""

    _plural = names.CLASS_PLURAL

    async def list(self) -> list[Body]:
        """Return all classes; none if the cluster does not have the kind.

        Raises:
            OperationError: the API server did not answer, or rejected the call.
        """
        try:
            with translated_errors("list classes"):
                return [body async for body in self._client.list_all()]
        except OperationError as error:
            if error.status == 404:
                return []
            raise

    async def patch_status(self, name: str, resource_version: str, status: Body) -> Body:
        """Merge `status` into the class's status, if the class has not changed since it was read.

        Raises:
            ConflictError: the class has changed.
            ResourceGoneError: the class no longer exists.
            OperationError: the API server did not answer, or rejected the call.
        """
        with translated_errors("class status"):
            return await self._client.patch_status(name, resource_version, status)
