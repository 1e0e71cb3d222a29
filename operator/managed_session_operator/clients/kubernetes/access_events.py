"""Reads the Events that the command line leaves when a person reaches into a session's sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubernetes.aio.client import ApiClient, CoreV1Api
from managed_session_api.conditions import Reason

from managed_session_operator.clients.kubernetes.calls import kubernetes_call

_PAGE = 500
_LONGEST_MESSAGE = 400


class AccessEvents:
    """The Events with the reason `SandboxAccessed` in the sessions' namespace."""

    def __init__(self, api_client: ApiClient, namespace: str, *, timeout: float) -> None:
        self._core = CoreV1Api(api_client)
        self._namespace = namespace
        self._timeout = timeout

    async def list(self) -> list[Mapping[str, Any]]:
        """Return them as fields of the audit, by the time of the Event.

        Raises:
            OperationError: the API server refused, or did not answer.
        """
        found: list[Any] = []
        more: dict[str, Any] = {}
        while True:
            async with kubernetes_call("access events", timeout=self._timeout, fence=None):
                page: Any = await self._core.list_namespaced_event(
                    self._namespace,
                    field_selector=f"reason={Reason.SANDBOX_ACCESSED}",
                    limit=_PAGE,
                    **more,
                )
            found += page.items
            more = {"_continue": page.metadata._continue}  # noqa: SLF001 - the client's name for `continue`
            if not more["_continue"]:
                break
        return sorted((_fields(event) for event in found), key=lambda each: str(each["accessedAt"]))


def _fields(event: Any) -> Mapping[str, Any]:
    at = event.first_timestamp or event.metadata.creation_timestamp
    return {
        "accessEvent": event.metadata.uid,
        "namespace": event.metadata.namespace,
        "resource": event.involved_object.name,
        "action": event.action,
        "reporter": event.reporting_component,
        "message": (event.message or "")[:_LONGEST_MESSAGE],
        "accessedAt": at.isoformat() if at is not None else None,
    }
