"""kopf's part: the watch on ManagedSession resources.

kopf runs in a thread with an event loop of its own. It takes the signals of the main thread and, when it
ends, every other task of its loop for its own; neither is wanted here, and its work on a burst of events
then delays no heartbeat of the Lease.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kopf
from managed_session_api import names

Observe = Callable[[str | None, dict[str, Any]], None]
"""Takes a watch event: its type (None for an object of the first list) and the object."""


_PULSE_SECONDS = 5.0


class _Backoffs:
    """Endless, jittered delays between retries of kopf's own calls; iterated afresh by each call."""

    def __iter__(self) -> Iterator[float]:
        for seconds in itertools.chain((1, 1, 2, 3, 5, 8, 13), itertools.repeat(21)):
            yield seconds * random.uniform(0.8, 1.2)


def watch_settings() -> kopf.OperatorSettings:
    """Kopf's settings for an operator that only watches."""
    settings = kopf.OperatorSettings()
    # kopf takes its own finalizer off whatever no handler of its needs it for: it must not be ours.
    settings.persistence.finalizer = f"{names.DOMAIN}/watch"
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


class Watch:
    """Watches one namespace and hands every event to `observe`, which is called in the caller's loop.

    Args:
        namespace: where the resources are.
        observe: takes the events in order.
        on_pulse: called every few seconds while kopf's event loop goes round.
    """

    def __init__(self, namespace: str, observe: Observe, on_pulse: Callable[[], None] = lambda: None) -> None:
        self._namespace = namespace
        self._observe = observe
        self._on_pulse = on_pulse

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            RuntimeError: kopf ended by itself; without a watch the operator is of no use.
        """
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def observe(kind: str | None, body: dict[str, Any]) -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(self._observe, kind, body)

        # Unused without peering; by default kopf asks for the user's name, and a pod's user ID has none.
        identity: Any = socket.gethostname()

        watching = asyncio.new_event_loop()

        def pulse() -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(self._on_pulse)
                watching.call_later(_PULSE_SECONDS, pulse)

        def work() -> None:
            watching.call_soon(pulse)
            kopf.run(
                loop=watching,
                registry=registry(observe),
                settings=watch_settings(),
                namespaces=[self._namespace],
                identity=identity,
                standalone=True,
                stop_flag=stop,
            )

        ended: asyncio.Future[None] = loop.create_future()

        def thread() -> None:
            try:
                work()
            finally:
                if not stop.is_set():
                    loop.call_soon_threadsafe(ended.cancel)

        # A daemon: a watch that takes long to close its connections must not hold the process.
        threading.Thread(target=thread, name="watch", daemon=True).start()
        try:
            await asyncio.wait({ended})
        finally:
            stop.set()
        raise RuntimeError("the watch on ManagedSession resources ended")
