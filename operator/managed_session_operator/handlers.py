"""kopf's part: the watch on ManagedSession resources, with its settings."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import kopf
from managed_session_api import names

Observe = Callable[[str | None, dict[str, Any]], None]
"""Takes a watch event: its type (None for an object of the first list) and the object."""


class _Backoffs:
    """Endless, jittered delays between retries of kopf's own calls; iterated afresh by each call."""

    def __iter__(self) -> Iterator[float]:
        for seconds in itertools.chain((1, 1, 2, 3, 5, 8, 13), itertools.repeat(21)):
            yield seconds * random.uniform(0.8, 1.2)


def watch_settings() -> kopf.OperatorSettings:
    """Kopf's settings for an operator that only watches."""
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = names.FINALIZER
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 360
    settings.watching.connect_timeout = 30
    settings.watching.inactivity_timeout = 70
    settings.watching.reconnect_backoff = 1
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = _Backoffs()
    settings.queueing.idle_timeout = 1
    return settings


def registry(observe: Observe) -> kopf.OperatorRegistry:
    """The one handler there is: every event about a resource goes to `observe`."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG"):
            return kopf.login_with_kubeconfig(**arguments)
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=handlers)
    async def note(event: Any, **_: Any) -> None:
        observe(event["type"], dict(event["object"]))

    return handlers
