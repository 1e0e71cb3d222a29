"""ManagedSession resources in the API server: the four calls that the webhook may make.

The calls go through the library's generic request, not through `CustomObjectsApi`, whose validation of
arguments costs more than the call itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.config import ConfigException
from managed_session_api import names

_FIELD_MANAGER = "managed-session-webhook"
_PAGE = 500
_MESSAGE_LENGTH = 300


class KubernetesUnavailableError(Exception):
    """The API server did not do it now and may do it later."""


class KubernetesMisconfiguredError(Exception):
    """The API server will not do it until a person changes something; the text says what."""


class ResourceExistsError(Exception):
    """A resource of that name exists already."""


class ResourceConflictError(Exception):
    """The resource has changed since it was read."""


Resource = dict[str, Any]


class SessionApi:
    """Calls for the ManagedSession resources of one namespace.

    Every call raises KubernetesUnavailableError or KubernetesMisconfiguredError when it cannot be made; time
    limits are the client's.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{namespace}/{names.PLURAL}"

    async def get(self, name: str, *, from_cache: bool = False) -> Resource | None:
        """The resource, or None.

        Args:
            name: its name.
            from_cache: read the API server's watch cache, which may lag, and not etcd.
        """
        query = [("resourceVersion", "0")] if from_cache else []
        status, content = await self._request("GET", f"{self._path}/{name}", query)
        if status == 200:
            return _object(content)
        if status == 404 and _object(content).get("details", {}).get("name") == name:
            return None
        raise self._refused("get", status, content)

    async def create(self, name: str, session_id: str) -> Resource:
        """Create the resource of a session and return it.

        Raises:
            ResourceExistsError: one of that name exists.
        """
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY}},
            "spec": {"sessionID": session_id},
        }
        status, content = await self._request(
            "POST", self._path, [("fieldManager", _FIELD_MANAGER)], body, "application/json"
        )
        if status == 201:
            return _object(content)
        if status == 409:
            raise ResourceExistsError
        raise self._refused("create", status, content)

    async def note_event(self, name: str, resource_version: str, last_event: dict[str, str]) -> bool:
        """Write `status.lastEvent`; False where the resource is gone.

        Raises:
            ResourceConflictError: it is no longer at `resource_version`.
        """
        body = {"metadata": {"resourceVersion": resource_version}, "status": {"lastEvent": last_event}}
        status, content = await self._request(
            "PATCH",
            f"{self._path}/{name}/status",
            [("fieldManager", _FIELD_MANAGER)],
            body,
            "application/merge-patch+json",
        )
        if status == 200:
            return True
        if status == 409:
            raise ResourceConflictError
        if status == 404 and _object(content).get("details", {}).get("name") == name:
            return False
        raise self._refused("patch the status of", status, content)

    async def list_all(self) -> AsyncIterator[Resource]:
        """Every resource of the namespace, read in pages."""
        token = ""
        while True:
            query = [("limit", str(_PAGE)), *([("continue", token)] if token else [])]
            status, content = await self._request("GET", self._path, query)
            if status != 200:
                raise self._refused("list", status, content)
            page = _object(content)
            for item in page["items"]:
                yield item
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return

    async def _request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: dict[str, Any] | None = None,
        content_type: str | None = None,
    ) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            call = await self._client.param_serialize(
                method=method,
                resource_path=path,
                query_params=query,
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            try:
                response = await self._client.call_api(*call)
            except aiohttp.ServerDisconnectedError:
                # A pooled connection that the server had closed. Each of these calls may be repeated.
                response = await self._client.call_api(*call)
            return response.status, await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubernetesUnavailableError(
                f"the API server cannot be reached: {str(error) or type(error).__name__}"
            ) from error
        except ConfigException as error:
            raise KubernetesMisconfiguredError(
                f"the service account's token cannot be read: {error}"
            ) from error

    def _refused(
        self, verb: str, status: int, content: bytes
    ) -> KubernetesUnavailableError | KubernetesMisconfiguredError:
        message = str(_object(content).get("message", ""))[:_MESSAGE_LENGTH]
        said = f"the API server answered {status} to {verb} {names.PLURAL} in namespace {self._namespace}"
        if message:
            said = f"{said} ({message})"
        match status:
            case 401:
                return KubernetesMisconfiguredError(f"{said}: the token is not valid for this cluster")
            case 403:
                return KubernetesMisconfiguredError(
                    f"{said}: apply the Role and RoleBinding of managed-session-webhook"
                )
            case 404:
                return KubernetesMisconfiguredError(
                    f"{said}: apply the CustomResourceDefinition, create the namespace, or correct "
                    "MANAGED_SESSIONS_NAMESPACE"
                )
            case 400 | 405 | 415 | 422:
                return KubernetesMisconfiguredError(
                    f"{said}: the CustomResourceDefinition does not fit this webhook; apply its version's"
                )
            case _:
                return KubernetesUnavailableError(said)


def _object(content: bytes) -> dict[str, Any]:
    """The JSON object in an answer; empty for anything else, such as a proxy's error page."""
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
