"""The Secrets that carry session tokens."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from kubernetes.aio import client
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from pydantic import SecretStr

from managed_session_operator.clients.kubernetes_calls import kubernetes_call
from managed_session_operator.failures import ConflictError, Failure, Kind, ResourceGoneError


class SessionTokens:
    """The Secrets that carry session tokens from the claim to the worker's first heartbeat."""

    def __init__(
        self, api_client: client.ApiClient, namespace: str, *, fence: Callable[[], None], timeout: float
    ) -> None:
        self._core = client.CoreV1Api(api_client)
        self._namespace = namespace
        self._fence = fence
        self._timeout = timeout

    async def put(self, resource: ManagedSession, claim: str, token: SecretStr | None) -> None:
        """Keep `token` (None: the environment issues none) for the resource's claim, replacing another."""
        name = names.token_secret_name(resource.metadata.name)
        body = client.V1Secret(
            metadata=client.V1ObjectMeta(
                name=name,
                labels={names.LABEL_MANAGED_BY: names.MANAGED_BY},
                annotations={names.ANNOTATION_CLAIM: claim},
                owner_references=[
                    client.V1OwnerReference(
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
            message = f"there is no namespace {self._namespace}"
            raise Failure(Kind.PERSON, Reason.KUBERNETES_REFUSED, message) from None

    async def _replace(self, name: str, body: Any) -> None:
        """Replace the Secret as it is now: a replacement that arrives late finds another version."""
        try:
            async with self._call("secret read"):
                there: Any = await self._core.read_namespaced_secret(name, self._namespace)
            body.metadata.resource_version = there.metadata.resource_version
            async with self._call("secret update"):
                await self._core.replace_namespaced_secret(name, self._namespace, body)
        except (ConflictError, ResourceGoneError):
            message = "the Secret changed while it was replaced"
            raise Failure(Kind.RETRY, Reason.KUBERNETES_REFUSED, message) from None

    async def get(self, resource_name: str, claim: str) -> tuple[bool, SecretStr | None]:
        """(whether there is a Secret of this claim, the token in it)."""
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
        """Remove the resource's Secret, of `claim` only if that is given; none is fine.

        A delete that arrives late finds another version of the Secret and removes nothing.
        """
        name = names.token_secret_name(resource.metadata.name)
        try:
            async with self._call("secret read"):
                there: Any = await self._core.read_namespaced_secret(name, self._namespace)
            owners = {each.uid for each in there.metadata.owner_references or ()}
            of_claim = (there.metadata.annotations or {}).get(names.ANNOTATION_CLAIM)
            if resource.metadata.uid not in owners or claim not in (None, of_claim):
                return
            version = client.V1Preconditions(
                uid=there.metadata.uid, resource_version=there.metadata.resource_version
            )
            async with self._call("secret delete"):
                await self._core.delete_namespaced_secret(
                    name, self._namespace, body=client.V1DeleteOptions(preconditions=version)
                )
        except (ConflictError, ResourceGoneError):
            return

    def _call(self, operation: str) -> AbstractAsyncContextManager[None]:
        return kubernetes_call(operation, timeout=self._timeout, fence=self._fence)
