"""One operator process in the world: the real reconciler, steps and resync, on ports in memory."""

from __future__ import annotations

import asyncio
from typing import Any

from managed_session_operator.capacity.creation_rate import CreationRate
from managed_session_operator.capacity.slots import Capacity
from managed_session_operator.controller.reconciler import Reconciler
from managed_session_operator.domain.offer import OfferInbox
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.shared_environment import SharedEnvironmentDetector
from managed_session_operator.domain.worker_run import WorkerRun
from managed_session_operator.metrics import Metrics
from managed_session_operator.resync.loop import Resync
from managed_session_operator.steps.session_records import SessionRecords
from managed_session_operator.steps.turn_traces import TurnTraces

from .contexts import context
from .examples import NAME, settings
from .gate import Passage
from .in_memory_clouds import INSTALLATION, InMemoryQueue, InMemorySandboxes
from .in_memory_ports import (
    InMemoryEvents,
    InMemoryPreparations,
    InMemoryReferences,
    InMemoryStore,
    InMemoryTokens,
    Link,
    WorldClock,
)
from .in_memory_snapshots import InMemoryCleaning, InMemorySnapshots
from .in_memory_streams import InMemoryStreams
from .world import World

_METRICS = Metrics()
_SETTINGS = settings()


class Process:
    """One process, which leads from its start.

    Args:
        world: the world that it acts on.
        loop: event loop that runs only this process, which waits for nothing but the gate.
    """

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._resyncing = False
        self.link = link = Link(world, world.epoch, step=self._step)
        clock, queue = WorldClock(world), InMemoryQueue(link)
        self.streams, events = InMemoryStreams(link), InMemoryEvents()
        traces = TurnTraces(world.spans, clock, self.streams.get)
        self.context = context(
            settings=_SETTINGS,
            installation_id=INSTALLATION,
            clock=clock,
            queue=queue,
            sessions=queue,
            api_key=queue,
            sandboxes=InMemorySandboxes(link),
            snapshots=InMemorySnapshots(link),
            cleaning=InMemoryCleaning(link),
            runs=self.streams,
            records=SessionRecords(InMemoryStore(link), ResourceCache(), events, clock, followers=[traces]),
            traces=traces,
            tokens=InMemoryTokens(link),
            values=InMemoryReferences(link),
            preparations=InMemoryPreparations(link),
            events=events,
            inbox=OfferInbox(),
            capacity=Capacity(5, 80, clock=clock.monotonic),
            creation=CreationRate(1000.0, 1000, lambda _: True),
            metrics=_METRICS,
            epoch=lambda: link.epoch,
        )
        self._reconciler = Reconciler(self.context)
        detector = SharedEnvironmentDetector(lambda _: None, lambda _: None)
        self._resync = Resync(self.context, detector, lambda _: None)

    def _step(self) -> str | None:
        return None if self._resyncing else self.context.cache(NAME).trying

    @property
    def run(self) -> WorkerRun | None:
        """The worker that it listens to."""
        return self.streams.any(NAME)

    def hear(self) -> None:
        """Receive what the watch and the streams deliver."""
        world, cache = self.link.world, self.context.records.cache
        if world.released:
            cache.remove(NAME)
        else:
            cache.observe(world.body)
        self.hear_of_classes()
        self.streams.hear()

    def hear_of_classes(self) -> None:
        """Receive what the watch delivers about classes, also in the middle of a step."""
        classes = self.context.classes.cache
        classes.replace_all(self.link.world.classes.values(), classes.names())

    def reconcile(self) -> float | None:
        """Reconcile the resource. Return the seconds until the next time."""
        self.hear()
        return self._loop.run_until_complete(self._reconciler.reconcile(NAME))

    def resync(self) -> None:
        """Compare the lists with the resource."""
        self.hear()
        self._resyncing = True
        try:
            self._loop.run_until_complete(self._resync.resync())
        finally:
            self._resyncing = False

    def reaches(self, effects: int) -> bool:
        """Reconcile until the gate holds the effect after this many. Return whether there is one."""
        self.hear()
        self.link.gate.after(effects, Passage.HELD)
        self._task = self._loop.create_task(self._reconciler.reconcile(NAME))
        return self._is_held()

    def reaches_next(self, effects: int) -> bool:
        """Do the held effect and this many more. Return whether the gate holds another one."""
        self.link.gate.let_through(effects)
        return self._is_held()

    def _is_held(self) -> bool:
        assert self._task is not None
        held = self._loop.create_task(self.link.gate.held.wait())
        self._loop.run_until_complete(asyncio.wait({self._task, held}, return_when=asyncio.FIRST_COMPLETED))
        held.cancel()
        if self._task.done():
            task, self._task = self._task, None
            self.link.gate.open()
            task.result()
            return False
        return True

    def is_superseded(self) -> None:
        """Take the lead away from the process, which may not know."""
        self.link.leading = False

    def goes_on(self) -> None:
        """Let the held effect pass, and later ones too if the process still leads."""
        task, self._task = self._task, None
        self.link.gate.open()
        if task is not None:
            self._loop.run_until_complete(task)

    def end(self) -> None:
        """Cancel everything."""
        self.link.leading = False
        if self._task is not None:
            self._task.cancel()
            self._loop.run_until_complete(asyncio.wait({self._task}))
