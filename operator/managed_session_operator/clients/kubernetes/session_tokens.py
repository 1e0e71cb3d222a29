"""Stores session tokens in Secrets."""

from __future__ import annotations

import base64
from collections.abc import Callable

from kubernetes.aio.client import ApiClient
from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession
from managed_session_runtime.api_server_requests import Body
from pydantic import SecretStr

from managed_session_operator.clients.kubernetes.objects import Objects
from managed_session_operator.domain.errors import ConflictError, ErrorKind, OperationError, ResourceGoneError


class SessionTokens:
    """Secrets that hold session tokens from the claim to the worker's first heartbeat."""

    def __init__(
        self, api_client: ApiClient, namespace: str, *, fence: Callable[[], None], timeout: float
    ) -> None:
        self._secrets = Objects(api_client, namespace, "secrets", fence=fence, timeout=timeout)
        self._namespace = namespace

    async def put(self, resource: ManagedSession, claim: str, token: SecretStr | None) -> None:
        """Store the token of the resource's claim and replace any other. None: there is no token."""
        name = names.token_secret_name(resource.metadata.name)
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
                "annotations": {names.ANNOTATION_CLAIM: claim},
                "ownerReferences": [
                    {
                        "apiVersion": names.API_VERSION,
                        "kind": names.KIND,
                        "name": resource.metadata.name,
                        "uid": resource.metadata.uid,
                    }
                ],
            },
            "stringData": {"workSecret": token.get_secret_value() if token else ""},
        }
        try:
            await self._secrets.create("secret create", body)
        except ConflictError:
            await self._replace(name, body)
        except ResourceGoneError:
            message = f"The namespace {self._namespace} does not exist."
            raise OperationError(ErrorKind.USER_ACTION, Reason.KUBERNETES_CALL_FAILED, message) from None

    async def _replace(self, name: str, body: Body) -> None:
        """Replace the Secret at its current version, so that a late replacement fails."""
        try:
            there = await self._secrets.read("secret read", name)
            version = {"resourceVersion": there["metadata"]["resourceVersion"]}
            await self._secrets.replace(
                "secret update", name, {**body, "metadata": {**body["metadata"], **version}}
            )
        except (ConflictError, ResourceGoneError):
            message = "The session token's Secret was changed concurrently."
            raise OperationError(ErrorKind.TRANSIENT, Reason.KUBERNETES_CALL_FAILED, message) from None

    async def get(self, resource_name: str, claim: str) -> tuple[bool, SecretStr | None]:
        """Return whether there is a Secret of this claim, and its token."""
        try:
            secret = await self._secrets.read("secret read", names.token_secret_name(resource_name))
        except ResourceGoneError:
            return False, None
        if (secret["metadata"].get("annotations") or {}).get(names.ANNOTATION_CLAIM) != claim:
            return False, None
        value = base64.b64decode((secret.get("data") or {}).get("workSecret", "")).decode()
        return True, SecretStr(value) if value else None

    async def delete(self, resource: ManagedSession, claim: str | None = None) -> None:
        """Delete the resource's Secret if it exists, and if it belongs to `claim` where that is given.

        A deletion that arrives late finds another version of the Secret and deletes nothing.
        """
        name = names.token_secret_name(resource.metadata.name)
        try:
            there = (await self._secrets.read("secret read", name))["metadata"]
            owners = {each.get("uid") for each in there.get("ownerReferences") or ()}
            of_claim = (there.get("annotations") or {}).get(names.ANNOTATION_CLAIM)
            if resource.metadata.uid not in owners or claim not in (None, of_claim):
                return
            version = {"uid": there["uid"], "resourceVersion": there["resourceVersion"]}
            await self._secrets.delete("secret delete", name, version)
        except (ConflictError, ResourceGoneError):
            return
