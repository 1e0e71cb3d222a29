"""The API server's side: ManagedSession resources of one namespace."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from kubernetes.aio import client
from managed_session_api import names
from managed_session_api.resource import ManagedSession

from managed_session_operator.clients.kubernetes_calls import kubernetes_call
from managed_session_operator.failures import ResourceGoneError

_MERGE_PATCH = "application/merge-patch+json"
Body = dict[str, Any]


class Resources:
    """ManagedSession resources of one namespace, as raw JSON objects.

    Args:
        api_client: connected to the API server.
        namespace: where the resources are.
        fence: raises NotLeadingError when effects must not be sent.
        timeout: seconds for one call.
    """

    def __init__(
        self, api_client: client.ApiClient, namespace: str, *, fence: Callable[[], None], timeout: float
    ) -> None:
        self._objects = client.CustomObjectsApi(api_client)
        self._fence = fence
        self._timeout = timeout
        self._address: dict[str, Any] = {
            "group": names.GROUP,
            "version": names.VERSION,
            "namespace": namespace,
            "plural": names.PLURAL,
        }

    def _call(self, operation: str, *, effect: bool = True) -> AbstractAsyncContextManager[None]:
        return kubernetes_call(operation, timeout=self._timeout, fence=self._fence if effect else None)

    async def get(self, name: str) -> Body | None:
        """The newest resource called `name`, from etcd."""
        try:
            async with self._call("get", effect=False):
                body: Any = await self._objects.get_namespaced_custom_object(**self._address, name=name)
                return dict(body)
        except ResourceGoneError:
            return None

    async def list(self) -> list[Body]:
        """All resources of the namespace, in pages."""
        items: list[Body] = []
        token: str | None = None
        while True:
            async with self._call("list", effect=False):
                page: Any = await self._objects.list_namespaced_custom_object(
                    **self._address, limit=500, _continue=token
                )
            items.extend(page["items"])
            token = page["metadata"].get("continue")
            if not token:
                return items

    async def create(self, session_id: str, environment_id: str) -> Body:
        """Create the resource of a session whose work was offered.

        Raises:
            ConflictError: it exists already.
        """
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {
                "name": names.resource_name(session_id),
                "finalizers": [names.FINALIZER],
                # Random, since the UID is not known before.
                "annotations": {names.ANNOTATION_IDENTITY: str(uuid.uuid4())},
                "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
            },
            "spec": {"sessionID": session_id, "environmentID": environment_id},
        }
        async with self._call("create"):
            created: Any = await self._objects.create_namespaced_custom_object(**self._address, body=body)
            return dict(created)

    async def patch(self, resource: ManagedSession, body: Body) -> Body:
        """Merge `body` into metadata and spec, if the resource is still as it was read.

        Raises:
            ConflictError: it changed since.
            ResourceGoneError: it does not exist any more.
        """
        metadata = {**body.get("metadata", {}), "resourceVersion": resource.metadata.resource_version}
        async with self._call("patch"):
            patched: Any = await self._objects.patch_namespaced_custom_object(
                **self._address,
                name=resource.metadata.name,
                body={**body, "metadata": metadata},
                _content_type=_MERGE_PATCH,
            )
            return dict(patched)

    async def patch_status(self, resource: ManagedSession, status: Body) -> Body:
        """Merge `status` into the status, if the resource is still as it was read (raises as `patch`)."""
        async with self._call("status"):
            patched: Any = await self._objects.patch_namespaced_custom_object_status(
                **self._address,
                name=resource.metadata.name,
                body={
                    "metadata": {"resourceVersion": resource.metadata.resource_version},
                    "status": status,
                },
                _content_type=_MERGE_PATCH,
            )
            return dict(patched)

    async def delete(self, resource: ManagedSession) -> Body | None:
        """Ask for the resource's deletion, if it is still as it was read.

        Returns:
            The resource as it waits for its finalizers; None when it is gone.

        Raises:
            ConflictError: it changed since.
        """
        try:
            async with self._call("delete"):
                answer: Any = await self._objects.delete_namespaced_custom_object(
                    **self._address,
                    name=resource.metadata.name,
                    body=client.V1DeleteOptions(
                        preconditions=client.V1Preconditions(
                            uid=resource.metadata.uid, resource_version=resource.metadata.resource_version
                        )
                    ),
                )
        except ResourceGoneError:
            return None
        waits = isinstance(answer, dict) and answer.get("metadata", {}).get("deletionTimestamp")
        return answer if waits else None
