"""Recording an event in its session's resource, so that it is there when the sender is told so."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import timedelta
from weakref import WeakValueDictionary

from managed_session_api import names
from managed_session_api.events import is_newer
from managed_session_api.resource import EventStatus, Metadata, Model, WorkStatus
from managed_session_api.times import to_wire
from pydantic import Field, ValidationError

from managed_session_webhook.events import SessionEvent
from managed_session_webhook.metrics import Outcome
from managed_session_webhook.session_api import (
    KubernetesMisconfiguredError,
    KubernetesUnavailableError,
    Resource,
    ResourceConflictError,
    ResourceExistsError,
    SessionApi,
)

_ATTEMPTS = 8
"""Writes that may be overtaken by the operator or another replica before the sender has to try again."""

_KNOWN_NAMES = 20_000

_CLOCK_TOLERANCE = timedelta(seconds=5)
"""How far Anthropic's clock (an event's time) and the operator's (a turn's end) may be apart."""


class _Spec(Model):
    session_id: str


class _Status(Model):
    last_event: EventStatus | None = None
    work: WorkStatus = Field(default_factory=WorkStatus)


class _Session(Model):
    """The part of a resource that decides: a newer operator may write values elsewhere that we don't know."""

    metadata: Metadata
    spec: _Spec
    status: _Status = Field(default_factory=_Status)


class ResourceTerminatingError(Exception):
    """The session's resource is being deleted; the event has to come again when it is gone."""


class EventRecorder:
    """Records events. Safe beside other replicas and the operator: every write is conditional.

    Args:
        api: the resources.
        concurrency: events that are recorded at the same time, at most.
        deadline_seconds: time for one event, waiting included.
    """

    def __init__(self, api: SessionApi, *, concurrency: int, deadline_seconds: float) -> None:
        self._api = api
        self._places = asyncio.Semaphore(concurrency)
        self._deadline_seconds = deadline_seconds
        self._known = _RecentNames(_KNOWN_NAMES)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def record(self, event: SessionEvent) -> Outcome:
        """Make the resource reflect `event` if it is news; on return etcd has it.

        Returns:
            CREATED, NOTED, or why there was nothing to write: UNCHANGED (already there, or older than what
            is), STALE (its turn is over), NO_RESOURCE (an end, and nothing to end).

        Raises:
            ResourceTerminatingError: the resource is being deleted.
            KubernetesUnavailableError: the API server is not available, or too slow.
            KubernetesMisconfiguredError: the installation is incomplete; the text says what to do.
        """
        name = names.resource_name(event.session_id)
        # Events of one session one after another: they would only overtake each other's writes.
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout(self._deadline_seconds), lock, self._places:
                return await self._record(name, event)
        except TimeoutError:
            raise KubernetesUnavailableError(
                f"the API server did not record the event within {self._deadline_seconds:g} s"
            ) from None

    async def _record(self, name: str, event: SessionEvent) -> Outcome:
        resource = None
        # A new session costs two calls when nothing is read first, a known one two or (same event again) one.
        if not event.starts_run:
            # An end must not miss a resource that was created just now.
            resource = await self._api.get(name)
        elif name in self._known:
            # May lag: what it shows as recorded is recorded, and etcd checks every write.
            resource = await self._api.get(name, from_cache=True)
        recorded = Outcome.NOTED
        for _ in range(_ATTEMPTS):
            if resource is None:
                if not event.starts_run:
                    return Outcome.NO_RESOURCE
                try:
                    resource = await self._api.create(name, event.session_id)
                    recorded = Outcome.CREATED
                except ResourceExistsError:
                    resource = await self._api.get(name)
                    continue
                finally:
                    self._known.add(name)
            session = _session(name, resource)
            needless = _needless(event, session)
            if needless is not None:
                return needless if recorded is Outcome.NOTED else recorded
            try:
                if await self._api.note_event(
                    name, session.metadata.resource_version, _last_event(event.event)
                ):
                    return recorded
                resource = None
            except ResourceConflictError:
                resource = await self._api.get(name)
        raise KubernetesUnavailableError(f"resource {name} changes too often to be written")


class _RecentNames:
    """Names of resources that existed when last looked at: a hint that saves a call, never a fact."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        self._names[name] = None
        self._names.move_to_end(name)
        if len(self._names) > self._limit:
            self._names.popitem(last=False)


def _needless(event: SessionEvent, session: _Session) -> Outcome | None:
    """Why `session` needs no note of `event`, or None.

    Raises:
        ResourceTerminatingError: it can't take one.
        KubernetesMisconfiguredError: it is another session's.
    """
    if session.metadata.deletion_timestamp is not None:
        raise ResourceTerminatingError
    if session.spec.session_id != event.session_id:
        raise KubernetesMisconfiguredError(
            f"resource {session.metadata.name} serves another session: delete it, its name is reserved"
        )
    if not is_newer(event.event, session.status.last_event):
        return Outcome.UNCHANGED
    if event.starts_run and _is_over(event.event, session):
        return Outcome.STALE
    return None


def _session(name: str, resource: Resource) -> _Session:
    try:
        return _Session.model_validate(resource)
    except ValidationError as error:
        fields = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors())
        raise KubernetesMisconfiguredError(
            f"resource {name} is not readable ({fields}): correct or delete it"
        ) from None


def _last_event(event: EventStatus) -> dict[str, str]:
    return {"id": event.id, "type": event.type, "createdAt": to_wire(event.created_at)}


def _is_over(event: EventStatus, session: _Session) -> bool:
    """Whether the run that `event` announces has been served already.

    The two times come from two clocks, so an event close to the end of a turn counts as news: a run
    announced in vain costs a look at the queue, one withheld costs time.
    """
    finished_at = session.status.work.finished_at
    return finished_at is not None and event.created_at + _CLOCK_TOLERANCE <= finished_at
