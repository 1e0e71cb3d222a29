"""Reads and writes ManagedSession resources, for all processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.rest import RESTResponse
from kubernetes.aio.config import ConfigException
from managed_session_api import names
from pydantic_core import from_json

from managed_session_runtime.api_server_requests import MERGE_PATCH, Body, send
from managed_session_runtime.kubernetes_errors import (
    ConflictError,
    KubernetesMisconfiguredError,
    KubernetesUnavailableError,
    ResourceGoneError,
)

_PAGE = 500
_MESSAGE_LENGTH = 300
_DONE = {"GET": {200}, "POST": {201}, "PATCH": {200}, "DELETE": {200, 202}}
"""Status codes of successful responses."""


class ManagedSessionClient:
    """Reads and writes the ManagedSession resources of a namespace.

    Every write is conditional: a create requires that the name is unused, and all others require the version
    on which they are based. Every call can therefore be repeated, and is repeated once if a pooled
    connection turns out to be closed.

    Every call raises KubernetesUnavailableError or KubernetesMisconfiguredError if it fails. Their text may
    quote the API server, which may quote the resource.

    Args:
        client: connection to the API server.
        namespace: namespace of the resources.
        component: name of the process, used as field manager and in messages about missing rights.
        timeout: timeout of one call in seconds, including the repetition. Default: that of `client`.
        fence: called before each write is sent. Raises if the write must not be sent.
        plural: plural name of the kind. ManagedSessionClasses are only read, and their status written.
        kind: the kind of what is created.
    """

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        *,
        component: str,
        timeout: float | None = None,
        fence: Callable[[], None] = lambda: None,
        plural: str = names.PLURAL,
        kind: str = names.KIND,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._component = component
        self._timeout = timeout
        self._fence = fence
        self._plural = plural
        self._kind = kind
        self._path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{namespace}/{plural}"

    async def get(self, name: str, *, from_cache: bool = False) -> Body | None:
        """Return the resource, or None.

        Args:
            name: name of the resource.
            from_cache: read from the API server's watch cache, which may lag, instead of etcd.
        """
        query = [("resourceVersion", "0")] if from_cache else []
        try:
            return await self._call("get", "GET", f"{self._path}/{name}", query, name=name)
        except ResourceGoneError:
            return None

    async def list_all(self) -> AsyncIterator[Body]:
        """Yield all resources of the namespace, read page by page."""
        async for page in self.pages():
            for item in page:
                yield item

    async def pages(self) -> AsyncIterator[Sequence[Body]]:
        """Yield all resources of the namespace, one page at a time."""
        token = ""
        while True:
            query = [("limit", str(_PAGE)), *([("continue", token)] if token else [])]
            page = await self._call("list", "GET", self._path, query)
            yield page["items"]
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return

    async def create(
        self,
        name: str,
        spec: Body,
        *,
        finalizers: Sequence[str] = (),
        annotations: dict[str, str] | None = None,
    ) -> Body:
        """Create a resource and return it.

        Raises:
            ConflictError: a resource of this name exists.
        """
        metadata: Body = {"name": name, "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY}}
        if finalizers:
            metadata["finalizers"] = list(finalizers)
        if annotations:
            metadata["annotations"] = annotations
        body = {"apiVersion": names.API_VERSION, "kind": self._kind, "metadata": metadata, "spec": spec}
        return await self._call("create", "POST", self._path, self._managed(), body)

    async def patch(self, name: str, resource_version: str, body: Body) -> Body:
        """Merge `body` into metadata and spec, and return the resource.

        Raises:
            ConflictError: the resource is no longer at `resource_version`.
            ResourceGoneError: the resource no longer exists.
        """
        body = {**body, "metadata": {**body.get("metadata", {}), "resourceVersion": resource_version}}
        return await self._call("patch", "PATCH", f"{self._path}/{name}", self._managed(), body, name=name)

    async def patch_status(self, name: str, resource_version: str, status: Body) -> Body:
        """Merge `status` into the status, and return the resource (raises as `patch`)."""
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        return await self._call(
            "patch the status of", "PATCH", f"{self._path}/{name}/status", self._managed(), body, name=name
        )

    async def delete(self, name: str, *, uid: str, resource_version: str) -> Body | None:
        """Request the resource's deletion.

        Returns:
            The resource while it waits for its finalizers; None once it is gone.

        Raises:
            ConflictError: its UID is different, or it is no longer at `resource_version`.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid, "resourceVersion": resource_version},
        }
        try:
            answer = await self._call("delete", "DELETE", f"{self._path}/{name}", [], body, name=name)
        except ResourceGoneError:
            return None
        return answer if answer.get("metadata", {}).get("deletionTimestamp") else None

    def _managed(self) -> list[tuple[str, str]]:
        return [("fieldManager", self._component)]

    async def _call(
        self,
        verb: str,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: Body | None = None,
        *,
        name: str | None = None,
    ) -> Body:
        """Send a call. A 404 that names the resource `name` means that the resource is gone."""
        status, content = await self._request(method, path, query, body)
        if status in _DONE[method]:
            if not (answer := _object(content)):
                raise KubernetesUnavailableError(
                    f"the response to {verb} is not a JSON object", status=status
                )
            return answer
        if status == 409:
            raise ConflictError(
                f"{verb}: the resource has changed since it was read, or already exists", status=409
            )
        if status == 404 and name is not None and _object(content).get("details", {}).get("name") == name:
            raise ResourceGoneError(f"{verb}: there is no resource {name}", status=404)
        raise self._rejected(verb, status, content)

    async def _request(
        self, method: str, path: str, query: list[tuple[str, str]], body: Body | None
    ) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    response = await self._send(method, path, query, body)
                except aiohttp.ServerDisconnectedError:
                    # The server had closed this pooled connection.
                    response = await self._send(method, path, query, body)
                return response.status, await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubernetesUnavailableError(
                f"the API server cannot be reached: {str(error) or type(error).__name__}"
            ) from error
        except ConfigException as error:
            raise KubernetesMisconfiguredError(
                f"the service account's token cannot be read: {error}"
            ) from error

    async def _send(
        self, method: str, path: str, query: list[tuple[str, str]], body: Body | None
    ) -> RESTResponse:
        if method != "GET":
            self._fence()
        content_type = MERGE_PATCH if method == "PATCH" else "application/json"
        return await send(self._client, method, path, query=query, body=body, content_type=content_type)

    def _rejected(
        self, verb: str, status: int, content: bytes
    ) -> KubernetesUnavailableError | KubernetesMisconfiguredError:
        detail = str(_object(content).get("message", ""))[:_MESSAGE_LENGTH]
        message = f"the API server answered {status} to {verb} {self._plural} in namespace {self._namespace}"
        if detail:
            message = f"{message} ({detail})"
        match status:
            case 401:
                remedy = "the token is not valid for this cluster"
            case 403:
                remedy = f"apply the Role and RoleBinding of {self._component}"
            case 404:
                remedy = (
                    "apply the CustomResourceDefinition, create the namespace, or correct "
                    "MANAGED_SESSIONS_NAMESPACE"
                )
            case 400 | 405 | 415 | 422:
                remedy = f"the CustomResourceDefinition does not fit {self._component}; apply its version's"
            case _:
                return KubernetesUnavailableError(message, status=status)
        return KubernetesMisconfiguredError(f"{message}: {remedy}", status=status)


def _object(content: bytes) -> Body:
    """Parse the JSON object in a response; empty for anything else, such as a proxy's error page."""
    try:
        value = from_json(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
