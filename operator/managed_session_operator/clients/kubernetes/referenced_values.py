"""Reads the Secrets and ConfigMaps to which policies refer."""

from __future__ import annotations

import base64
import time
from typing import Any

from kubernetes.aio.client import ApiClient, CoreV1Api
from managed_session_api import names
from managed_session_api.conditions import Reason
from pydantic import SecretStr

from managed_session_operator.clients.kubernetes.calls import kubernetes_call
from managed_session_operator.domain.errors import ErrorKind, OperationError, ResourceGoneError
from managed_session_operator.domain.references import ReferencedValue
from managed_session_operator.domain.values import Reference

_SERVICE_ACCOUNT_TOKEN = "kubernetes.io/service-account-token"  # noqa: S105 - a type of Secret

_FRESH_SECONDS = 5.0
"""For this long `read_version` need not read an object again: many sessions refer to the same one."""


class ReferencedValues:
    """Values in Secrets and ConfigMaps of the sessions' namespace."""

    def __init__(self, api_client: ApiClient, namespace: str, *, timeout: float) -> None:
        self._core = CoreV1Api(api_client)
        self._namespace = namespace
        self._timeout = timeout
        self._recent: dict[tuple[str, str], tuple[float, Any]] = {}

    async def read(self, reference: Reference) -> SecretStr:
        """Return the value.

        Session tokens and tokens of service accounts can't be referred to: whoever may create a
        ManagedSession could otherwise read them.

        Raises:
            OperationError: it does not exist, is no text, or may not be referred to.
        """
        return self._value(await self._object(reference), reference)

    async def read_version(self, reference: Reference, *, fresh: bool) -> ReferencedValue:
        """Return the value and its object's version (raises as `read`); if not `fresh`, of seconds ago."""
        now = time.monotonic()
        self._recent = {key: each for key, each in self._recent.items() if now < each[0] + _FRESH_SECONDS}
        known = None if fresh else self._recent.get(reference[:2])
        found = known[1] if known is not None else await self._object(reference)
        if known is None:
            self._recent[reference[:2]] = (now, found)
        version = f"{found.metadata.uid}/{found.metadata.resource_version}"
        return ReferencedValue(self._value(found, reference), version)

    async def _object(self, reference: Reference) -> Any:
        kind, name, _ = reference
        try:
            async with kubernetes_call(f"{kind} read", timeout=self._timeout, fence=None):
                return await (
                    self._core.read_namespaced_secret(name, self._namespace)
                    if kind == "Secret"
                    else self._core.read_namespaced_config_map(name, self._namespace)
                )
        except ResourceGoneError:
            raise _missing(f"The {kind} {name} does not exist in namespace {self._namespace}.") from None

    def _value(self, found: Any, reference: Reference) -> SecretStr:
        kind, name, key = reference
        labels = found.metadata.labels or {}
        ours = labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY
        if kind == "Secret" and (ours or found.type == _SERVICE_ACCOUNT_TOKEN):
            raise _missing(f"The Secret {name} may not be used: it belongs to the operator or is a token.")
        value = (found.data or {}).get(key)
        if value is None:
            raise _missing(f"The {kind} {name} has no key {key}.")
        if kind != "Secret":
            return SecretStr(value)
        try:
            return SecretStr(base64.b64decode(value).decode())
        except UnicodeDecodeError:
            raise _missing(f"The key {key} of the Secret {name} is not UTF-8 text.") from None


def _missing(message: str) -> OperationError:
    return OperationError(ErrorKind.USER_ACTION, Reason.REFERENCE_INVALID, message)
