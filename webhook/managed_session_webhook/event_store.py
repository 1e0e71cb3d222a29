"""Records events in their sessions' resources before the sender gets its response."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import timedelta
from weakref import WeakValueDictionary

from managed_session_api import names
from managed_session_api.events import is_newer
from managed_session_api.resource import EventStatus, Metadata, Model, WorkStatus
from managed_session_api.times import to_wire
from managed_session_runtime.api_server_requests import Body
from managed_session_runtime.kubernetes_errors import (
    ConflictError,
    KubernetesMisconfiguredError,
    KubernetesUnavailableError,
    ResourceGoneError,
)
from managed_session_runtime.managed_session_client import ManagedSessionClient
from pydantic import Field, ValidationError

from managed_session_webhook.events import SessionEvent
from managed_session_webhook.metrics import Outcome

_ATTEMPTS = 8
"""Number of conflicts with the operator or another replica before the sender has to try again."""

_KNOWN_NAMES = 20_000

_CLOCK_TOLERANCE = timedelta(seconds=5)
"""Tolerated difference between Anthropic's clock (event times) and the operator's (end of a turn)."""


class _Spec(Model):
    session_id: str


class _Status(Model):
    last_event: EventStatus | None = None
    work: WorkStatus = Field(default_factory=WorkStatus)


class _Session(Model):
    """The part of a resource that matters here: a newer operator may write unknown values elsewhere."""

    metadata: Metadata
    spec: _Spec
    status: _Status = Field(default_factory=_Status)


class ResourceTerminatingError(Exception):
    """The session's resource is being deleted. The event has to be delivered again later."""


class EventStore:
    """Records events. Every write is conditional, so that replicas and the operator can run concurrently.

    Args:
        api: client of the resources.
        concurrency: maximum number of events that are recorded at once.
        deadline_seconds: timeout for one event, including time spent waiting.
    """

    def __init__(self, api: ManagedSessionClient, *, concurrency: int, deadline_seconds: float) -> None:
        self._api = api
        self._slots = asyncio.Semaphore(concurrency)
        self._deadline_seconds = deadline_seconds
        self._known = _RecentNames(_KNOWN_NAMES)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def record(self, event: SessionEvent) -> Outcome:
        """Record `event` in the resource if it is new. When this returns, etcd has stored it.

        Returns:
            CREATED or RECORDED; or why nothing was written: UNCHANGED (the recorded event is as new),
            STALE (the turn is over), NO_RESOURCE (the event ends a session that has no resource).

        Raises:
            ResourceTerminatingError: the resource is being deleted.
            KubernetesUnavailableError: the API server is unavailable or too slow.
            KubernetesMisconfiguredError: the installation is incomplete; the text says what to do.
        """
        name = names.resource_name(event.session_id)
        # One event of a session at a time: concurrent writes would only conflict.
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout(self._deadline_seconds), lock, self._slots:
                return await self._record(name, event)
        except TimeoutError:
            raise KubernetesUnavailableError(
                f"the API server did not record the event within {self._deadline_seconds:g} s"
            ) from None

    async def _record(self, name: str, event: SessionEvent) -> Outcome:
        resource = None
        # Without a read, a new session costs two calls. A known one costs two, or one for a repeated event.
        if not event.starts_run:
            # An end must not miss a resource that was just created.
            resource = await self._api.get(name)
        elif name in self._known:
            # The cache may lag, which is safe: what it shows has been recorded, and etcd checks every write.
            resource = await self._api.get(name, from_cache=True)
        recorded = Outcome.RECORDED
        for _ in range(_ATTEMPTS):
            if resource is None:
                if not event.starts_run:
                    return Outcome.NO_RESOURCE
                try:
                    resource = await self._api.create(name, {"sessionID": event.session_id})
                    recorded = Outcome.CREATED
                except ConflictError:
                    resource = await self._api.get(name)
                    continue
                finally:
                    self._known.add(name)
            session = _session(name, resource)
            unnecessary = _why_unnecessary(event, session)
            if unnecessary is not None:
                return unnecessary if recorded is Outcome.RECORDED else recorded
            try:
                if await self._write(session, event):
                    return recorded
                resource = None
            except ConflictError:
                resource = await self._api.get(name)
        raise KubernetesUnavailableError(f"resource {name} was changed concurrently too many times")

    async def _write(self, session: _Session, event: SessionEvent) -> bool:
        """Write `status.lastEvent`; return False if the resource is gone.

        Raises:
            ConflictError: the resource has changed since it was read.
        """
        metadata, status = session.metadata, {"lastEvent": _last_event(event.event)}
        try:
            await self._api.patch_status(metadata.name, metadata.resource_version, status)
        except ResourceGoneError:
            return False
        return True


class _RecentNames:
    """Names of resources that recently existed. Only used to save a call."""

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


def _why_unnecessary(event: SessionEvent, session: _Session) -> Outcome | None:
    """Return why `event` need not be recorded in `session`, or None.

    Raises:
        ResourceTerminatingError: the resource is being deleted.
        KubernetesMisconfiguredError: the resource belongs to another session.
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


def _session(name: str, resource: Body) -> _Session:
    try:
        return _Session.model_validate(resource)
    except ValidationError as error:
        fields = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors())
        raise KubernetesMisconfiguredError(
            f"resource {name} is invalid ({fields}): correct or delete it"
        ) from None


def _last_event(event: EventStatus) -> dict[str, str]:
    return {
        "id": event.id,
        "type": event.type,
        "createdAt": to_wire(event.created_at),
        **({"receivedAt": to_wire(event.received_at)} if event.received_at is not None else {}),
    }


def _is_over(event: EventStatus, session: _Session) -> bool:
    """Whether the run that `event` announces has already been served.

    The two times come from different clocks, so an event close to the end of a turn counts as new: an
    unnecessary announcement costs one check of the queue, a missed one costs the user time.
    """
    finished_at = session.status.work.finished_at
    return finished_at is not None and event.created_at + _CLOCK_TOLERANCE <= finished_at
