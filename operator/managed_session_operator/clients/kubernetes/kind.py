"""What the clients of both kinds have in common: the client shared with the webhook, behind the fence."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from kubernetes.aio.client import ApiClient
from managed_session_api import names
from managed_session_runtime.managed_session_client import ManagedSessionClient


class Kind:
    """The resources of one kind in a namespace, as JSON objects.

    Args:
        api_client: connection to the API server.
        namespace: namespace of the resources.
        fence: raises NotLeadingError if effects must not be sent.
        timeout: timeout of one call in seconds.
    """

    _plural: ClassVar[str] = names.PLURAL
    _kind: ClassVar[str] = names.KIND

    def __init__(
        self, api_client: ApiClient, namespace: str, *, fence: Callable[[], None], timeout: float
    ) -> None:
        self._client = ManagedSessionClient(
            api_client,
            namespace,
            component="managed-session-operator",
            timeout=timeout,
            fence=fence,
            plural=self._plural,
            kind=self._kind,
        )
