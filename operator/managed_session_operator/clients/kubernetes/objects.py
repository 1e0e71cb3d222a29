"""Reads and writes objects of Kubernetes' own kinds in a namespace, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from managed_session_runtime.api_server_requests import Body, send
from pydantic_core import from_json

from managed_session_operator.clients.kubernetes.calls import kubernetes_call


class Objects:
    """The objects of one kind. Every call raises as `kubernetes_call`.

    Args:
        api_client: connection to the API server.
        namespace: namespace of the objects.
        plural: plural name of the kind, in the core group.
        fence: raises NotLeadingError if effects must not be sent; None if others may send them too.
        timeout: timeout of one call in seconds.
    """

    def __init__(
        self,
        api_client: ApiClient,
        namespace: str,
        plural: str,
        *,
        fence: Callable[[], None] | None,
        timeout: float,
    ) -> None:
        self._client = api_client
        self._path = f"/api/v1/namespaces/{namespace}/{plural}"
        self._fence = fence
        self._timeout = timeout

    async def read(self, operation: str, name: str) -> Body:
        """Return the object called `name`. `operation` names the call in messages."""
        return await self._call(operation, "GET", f"{self._path}/{name}")

    async def create(self, operation: str, body: Body) -> Body:
        """Create the object and return it."""
        return await self._call(operation, "POST", self._path, body)

    async def replace(self, operation: str, name: str, body: Body) -> Body:
        """Replace the object at the resourceVersion in `body`, and return it."""
        return await self._call(operation, "PUT", f"{self._path}/{name}", body)

    async def delete(self, operation: str, name: str, preconditions: Body) -> None:
        """Delete the object if it still meets the preconditions."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        await self._call(operation, "DELETE", f"{self._path}/{name}", options)

    async def _call(self, operation: str, method: str, path: str, body: Body | None = None) -> Body:
        async with kubernetes_call(operation, timeout=self._timeout, fence=self._fence):
            response = await send(self._client, method, path, body=body)
            content = await response.read()  # type: ignore[no-untyped-call]
            if not 200 <= response.status < 300:
                raise ApiException(status=response.status)
            found: Any = from_json(content)
            return found if isinstance(found, dict) else {}
