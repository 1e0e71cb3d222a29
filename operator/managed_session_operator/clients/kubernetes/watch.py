"""Watches ManagedSession resources and their classes with kopf.

kopf runs in a thread with its own event loop. In the main thread it would take over signals and, at its end,
all other tasks of the loop; and a burst of events would delay renewals of the Lease.

kopf gives up for good on some temporary errors: when the API server rejects the same token twice (401), or
ends a stream with an error other than 410. Each login is therefore a new one for kopf, and kopf is restarted
when it ends; both with growing delays.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import aiohttp
import kopf
from managed_session_api import names
from managed_session_runtime.kubernetes_client import ApiServerSession
from pydantic_core import from_json

from managed_session_operator.clients.kubernetes.stateless_kopf import NoDiffBase, NoMemories, NoProgress

logger = logging.getLogger(__name__)

Observe = Callable[[str | None, dict[str, Any]], None]
"""Receives a watch event: its type (None for an object of the initial list) and the object."""

Deliver = Callable[[str | None, list[dict[str, Any]]], None]
"""Receives the objects of events of one type, as `Observe` does those of one event."""


class OpenSession(Protocol):
    """Opens a session to the API server in the running loop."""

    def __call__(self, *, response_class: type[aiohttp.ClientResponse]) -> Awaitable[ApiServerSession]:
        """Return a session whose responses are of `response_class`."""
        ...


LISTS = {names.PLURAL: f"{names.KIND}List", names.CLASS_PLURAL: f"{names.CLASS_KIND}List"}
"""The kinds of the lists that the API server returns, by the plural name of what they list."""

_PULSE_SECONDS = 5.0


class _Backoffs:
    """Endless, jittered delays between retries of kopf's own calls. Each call iterates from the start."""

    def __iter__(self) -> Iterator[float]:
        for seconds in itertools.chain((1, 1, 2, 3, 5, 8, 13), itertools.repeat(21)):
            yield seconds * random.uniform(0.8, 1.2)


class _Pace:
    """Growing delays between attempts that fail in quick succession.

    The longest delay lets the watch resume well within 30 s after the API server has recovered.
    """

    def __init__(self) -> None:
        self._delays = (0.0, 1.0, 2.0, 4.0, 8.0)
        self._attempts = 0
        self._last = 0.0

    def delay(self) -> float:
        """Return the seconds to wait before the next attempt."""
        now = time.monotonic()
        if now - self._last > 60:
            self._attempts = 0
        seconds = self._delays[min(self._attempts, len(self._delays) - 1)] * random.uniform(0.8, 1.2)
        self._attempts += 1
        self._last = now + seconds
        return seconds


def watch_settings() -> kopf.OperatorSettings:
    """Return kopf's settings for an operator that only watches."""
    settings = kopf.OperatorSettings()
    # kopf removes its finalizer from resources whose handlers do not need it, so it must not be ours.
    settings.persistence.finalizer = f"{names.DOMAIN}/watch"
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
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


def short_lists(deliveries: Mapping[str, Deliver]) -> type[aiohttp.ClientResponse]:
    """Return a class of responses that deliver the objects of a list, and show kopf an empty list.

    kopf starts a task for each object of a list, which takes seconds of CPU for 10,000 of them. From the
    list it needs only the resource version at which to begin watching.
    """

    class Response(aiohttp.ClientResponse):
        async def json(self, **options: Any) -> Any:
            try:
                content = from_json(await self.read())
            except ValueError:
                # kopf knows the library's own error, as for a proxy's page.
                return await super().json(**options)
            deliver = deliveries.get(content.get("kind", "")) if isinstance(content, dict) else None
            if deliver is not None:
                deliver(None, content.get("items") or [])
                content["items"] = []
            return content

    return Response


def registry(
    deliveries: Mapping[str, Deliver], open_session: OpenSession, pace: _Pace
) -> kopf.OperatorRegistry:
    """Create the registry with one handler for each kind, which delivers every event.

    `deliveries` has them by the kind's plural name.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, backoff=5)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # kopf never reuses credentials that were rejected once. A new session counts as new credentials.
        await asyncio.sleep(pace.delay())
        lists = {LISTS[plural]: deliver for plural, deliver in deliveries.items()}
        opened = await open_session(response_class=short_lists(lists))
        return kopf.AiohttpSession(server=opened.url, aiohttp_session=opened.session)

    for plural, deliver in deliveries.items():
        _deliver_kind(handlers, plural, deliver)
    return handlers


def _deliver_kind(handlers: kopf.OperatorRegistry, plural: str, deliver: Deliver) -> None:
    @kopf.on.event(names.GROUP, names.VERSION, plural, id=f"observe-{plural}", registry=handlers)
    async def deliver_event(event: Any, **_: Any) -> None:
        deliver(event["type"], [dict(event["object"])])


class Watch:
    """Watches a namespace and passes every event to the kind's observer, in the caller's loop.

    A kind that the cluster does not have is left out.

    Args:
        namespace: namespace to watch.
        observers: receive the events of each kind in order, by the kind's plural name.
        open_session: opens a session to the API server.
        on_pulse: called every few seconds while kopf's event loop is running.
    """

    def __init__(
        self,
        namespace: str,
        observers: Mapping[str, Observe],
        open_session: OpenSession,
        on_pulse: Callable[[], None] = lambda: None,
    ) -> None:
        self._namespace = namespace
        self._observers = observers
        self._open_session = open_session
        self._on_pulse = on_pulse

    def _deliveries(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> dict[str, Deliver]:
        """Return what passes the objects of each kind to its observer in `loop`, until `stop` is set."""

        def deliver(observe: Observe, kind: str | None, bodies: list[dict[str, Any]]) -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(_observe_all, observe, kind, bodies)

        return {plural: partial(deliver, observe) for plural, observe in self._observers.items()}

    async def run(self) -> None:
        """Watch until cancelled."""
        loop, stop = asyncio.get_running_loop(), threading.Event()
        deliveries = self._deliveries(loop, stop)

        def pulse() -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(self._on_pulse)

        def thread() -> None:
            logins, starts = _Pace(), _Pace()
            while not stop.wait(starts.delay()):
                handlers = registry(deliveries, self._open_session, logins)
                try:
                    _run_kopf(handlers, self._namespace, pulse, stop)
                except Exception as error:  # noqa: BLE001 - resources have to be watched, whatever the error
                    cause = type(error).__name__
                else:
                    cause = "kopf ended"
                if not stop.is_set():
                    logger.warning("restarting the watch", extra={"cause": cause})

        # A daemon thread, so that closing the watch's connections cannot delay the end of the process.
        threading.Thread(target=thread, name="watch", daemon=True).start()
        try:
            await asyncio.Event().wait()
        finally:
            stop.set()


def _observe_all(observe: Observe, kind: str | None, bodies: list[dict[str, Any]]) -> None:
    for body in bodies:
        observe(kind, body)


def _run_kopf(
    handlers: kopf.OperatorRegistry, namespace: str, pulse: Callable[[], None], stop: threading.Event
) -> None:
    """Run kopf in its own loop until it fails or `stop` is set."""
    ended = threading.Event()
    watching = asyncio.new_event_loop()

    def beat() -> None:
        pulse()
        # kopf waits for this flag in a thread, which would otherwise live until the process ends.
        if stop.is_set():
            ended.set()
        else:
            watching.call_later(_PULSE_SECONDS, beat)

    watching.call_soon(beat)
    try:
        kopf.run(
            loop=watching,
            registry=handlers,
            settings=watch_settings(),
            memories=NoMemories(),
            namespaces=[namespace],
            # Unused without peering. By default kopf uses the user's name, which a pod's user does not have.
            identity=socket.gethostname(),  # type: ignore[arg-type]
            standalone=True,
            stop_flag=ended,
        )
    finally:
        ended.set()
        watching.close()
