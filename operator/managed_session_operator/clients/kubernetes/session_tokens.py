"""Stores session tokens in Secrets."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from kubernetes.aio.client import (
    ApiClient,
    CoreV1Api,
    V1DeleteOptions,
    V1ObjectMeta,
    V1OwnerReference,
    V1Preconditions,
    V1Secret,
)
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from pydantic import SecretStr

from managed_session_operator.clients.kubernetes.calls import kubernetes_call
from managed_session_operator.domain.errors import ConflictError, ErrorKind, OperationError, ResourceGoneError


class SessionTokens:
    """Secrets that hold session tokens from the claim to the worker's first heartbeat."""

    def __init__(
        self, api_client: ApiClient, namespace: str, *, fence: Callable[[], None], timeout: float
    ) -> None:
        self._core = CoreV1Api(api_client)
        self._namespace = namespace
        self._fence = fence
        self._timeout = timeout

    async def put(self, resource: ManagedSession, claim: str, token: SecretStr | None) -> None:
        """Store the token of the resource's claim and replace any other. None: there is no token."""
        name = names.token_secret_name(resource.metadata.name)
        body = V1Secret(
            metadata=V1ObjectMeta(
                name=name,
                labels={names.LABEL_MANAGED_BY: names.MANAGED_BY},
                annotations={names.ANNOTATION_CLAIM: claim},
                owner_references=[
                    V1OwnerReference(
                        api_version=names.API_VERSION,
                        kind=names.KIND,
                        name=resource.metadata.name,
                        uid=resource.metadata.uid,
                    )
                ],
            ),
            string_data={"workSecret": token.get_secret_value() if token else ""},
        )
        try:
            async with self._call("secret create"):
                await self._core.create_namespaced_secret(self._namespace, body)
        except ConflictError:
            await self._replace(name, body)
        except ResourceGoneError:
            message = f"The namespace {self._namespace} does not exist."
            raise OperationError(ErrorKind.USER_ACTION, Reason.KUBERNETES_CALL_FAILED, message) from None

    async def _replace(self, name: str, body: Any) -> None:
        """Replace the Secret at its current version, so that a late replacement fails."""
        try:
            async with self._call("secret read"):
                there: Any = await self._core.read_namespaced_secret(name, self._namespace)
            body.metadata.resource_version = there.metadata.resource_version
            async with self._call("secret update"):
                await self._core.replace_namespaced_secret(name, self._namespace, body)
        except (ConflictError, ResourceGoneError):
            message = "The session token's Secret was changed concurrently."
            raise OperationError(ErrorKind.TRANSIENT, Reason.KUBERNETES_CALL_FAILED, message) from None

    async def get(self, resource_name: str, claim: str) -> tuple[bool, SecretStr | None]:
        """Return whether there is a Secret of this claim, and its token."""
        try:
            async with self._call("secret read"):
                secret: Any = await self._core.read_namespaced_secret(
                    names.token_secret_name(resource_name), self._namespace
                )
        except ResourceGoneError:
            return False, None
        if (secret.metadata.annotations or {}).get(names.ANNOTATION_CLAIM) != claim:
            return False, None
        value = base64.b64decode((secret.data or {}).get("workSecret", "")).decode()
        return True, SecretStr(value) if value else None

    async def delete(self, resource: ManagedSession, claim: str | None = None) -> None:
        """Delete the resource's Secret if it exists, and if it belongs to `claim` where that is given.

        A deletion that arrives late finds another version of the Secret and deletes nothing.
        """
        name = names.token_secret_name(resource.metadata.name)
        try:
            async with self._call("secret read"):
                there: Any = await self._core.read_namespaced_secret(name, self._namespace)
            owners = {each.uid for each in there.metadata.owner_references or ()}
            of_claim = (there.metadata.annotations or {}).get(names.ANNOTATION_CLAIM)
            if resource.metadata.uid not in owners or claim not in (None, of_claim):
                return
            version = V1Preconditions(
                uid=there.metadata.uid, resource_version=there.metadata.resource_version
            )
            async with self._call("secret delete"):
                await self._core.delete_namespaced_secret(
                    name, self._namespace, body=V1DeleteOptions(preconditions=version)
                )
        except (ConflictError, ResourceGoneError):
            return

    def _call(self, operation: str) -> AbstractAsyncContextManager[None]:
        return kubernetes_call(operation, timeout=self._timeout, fence=self._fence)
