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
from typing import Any

import kopf
from managed_session_api import names
from managed_session_runtime.kubernetes_client import ApiServerSession

logger = logging.getLogger(__name__)

Observe = Callable[[str | None, dict[str, Any]], None]
"""Receives a watch event: its type (None for an object of the initial list) and the object."""

OpenSession = Callable[[], Awaitable[ApiServerSession]]
"""Opens a session to the API server in the running loop."""

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


def registry(
    observers: Mapping[str, Observe], open_session: OpenSession, pace: _Pace
) -> kopf.OperatorRegistry:
    """Create the registry with one handler for each kind, which passes every event to its observer."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, backoff=5)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # kopf never reuses credentials that were rejected once. A new session counts as new credentials.
        await asyncio.sleep(pace.delay())
        opened = await open_session()
        return kopf.AiohttpSession(server=opened.url, aiohttp_session=opened.session)

    for plural, observe in observers.items():
        _observe_kind(handlers, plural, observe)
    return handlers


def _observe_kind(handlers: kopf.OperatorRegistry, plural: str, observe: Observe) -> None:
    @kopf.on.event(names.GROUP, names.VERSION, plural, id=f"observe-{plural}", registry=handlers)
    async def observe_event(event: Any, **_: Any) -> None:
        observe(event["type"], dict(event["object"]))


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

    async def run(self) -> None:
        """Watch until cancelled."""
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def in_loop(observer: Observe, kind: str | None, body: dict[str, Any]) -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(observer, kind, body)

        observers = {plural: partial(in_loop, observer) for plural, observer in self._observers.items()}

        def pulse() -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(self._on_pulse)

        def thread() -> None:
            logins, starts = _Pace(), _Pace()
            while not stop.wait(starts.delay()):
                handlers = registry(observers, self._open_session, logins)
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
            namespaces=[namespace],
            # Unused without peering. By default kopf uses the user's name, which a pod's user does not have.
            identity=socket.gethostname(),  # type: ignore[arg-type]
            standalone=True,
            stop_flag=ended,
        )
    finally:
        ended.set()
        watching.close()
