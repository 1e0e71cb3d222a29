"""`/v1/sessions/…`: sessions, their events and event streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.responses import Response, StreamingResponse

from managed_session_devkit.simulators.anthropic.connections import cut, forget_if_dead
from managed_session_devkit.simulators.anthropic.credentials import API_KEY, ENVIRONMENT_KEY, SESSIONS_TOKEN
from managed_session_devkit.simulators.anthropic.operations import Call, JSONResponse, Operation
from managed_session_devkit.simulators.anthropic.paging import limit_of, page_of, within
from managed_session_devkit.simulators.anthropic.session import Session, Stream

_API = frozenset({API_KEY})
_ANY = frozenset({API_KEY, ENVIRONMENT_KEY, SESSIONS_TOKEN})
_SESSION = "/v1/sessions/{session_id}"
_WORKER_HELPER = "session-tool-runner"
_PING_SECONDS = 2
"""How long writing a ping may take. It blocks if earlier data still waits to be sent."""
_PING: dict[str, Any] = {"type": "ping"}


def _session(call: Call) -> Session:
    return call.cloud.session(call.path("session_id"), call.credential)


async def _create(call: Call) -> Response:
    session = call.cloud.create_session(call.body, call.credential)
    call.fields["session_id"] = session.id
    return JSONResponse(session.as_json())


async def _get(call: Call) -> Response:
    return JSONResponse(_session(call).as_json())


async def _update(call: Call) -> Response:
    session = _session(call)
    call.cloud.update_session(session, call.body)
    return JSONResponse(session.as_json())


async def _list(call: Call) -> Response:
    query = call.request.query_params
    statuses = call.many("statuses")
    archived = query.get("include_archived", "false") == "true"
    agent_id = query.get("agent_id")
    rows = [
        session
        for session in call.cloud.sessions.values()
        if (archived or session.archived_at is None)
        and (not statuses or session.status in statuses)
        and (agent_id is None or session.agent["id"] == agent_id)
        and within(session.created_at, query)
    ]
    if query.get("order", "desc") == "desc":
        rows.reverse()
    limit = limit_of(call.integer("limit"), default=20, maximum=1000)
    page, following = page_of(rows, query.get("page"), limit)
    return JSONResponse(
        {"data": [session.as_json() for session in page], "next_page": following, "prev_page": None}
    )


async def _archive(call: Call) -> Response:
    session = _session(call)
    call.cloud.archive(session)
    return JSONResponse(session.as_json())


async def _delete(call: Call) -> Response:
    session = _session(call)
    call.cloud.delete(session)
    return JSONResponse({"id": session.id, "type": "session_deleted"})


async def _list_events(call: Call) -> Response:
    session = _session(call)
    query = call.request.query_params
    types = call.many("types")
    rows = [
        event
        for event, at in zip(session.events, session.event_times, strict=True)
        if (not types or event["type"] in types) and within(at, query)
    ]
    if query.get("order", "asc") == "desc":
        rows.reverse()
    limit = limit_of(call.integer("limit"), default=100, maximum=1000)
    page, following = page_of(rows, query.get("page"), limit)
    return JSONResponse({"data": page, "next_page": following})


async def _send_events(call: Call) -> Response:
    session = _session(call)
    queue = call.cloud.queues[session.environment_id]
    events = call.body.get("events")
    if isinstance(events, list):
        call.fields["event_types"] = [str(event.get("type")) for event in events if isinstance(event, dict)]
    data = call.cloud.inbox.send(session, queue, events, call.credential, call.cloud.settings.events)
    return JSONResponse({"data": data})


async def _stream_events(call: Call) -> Response:
    session = _session(call)
    worker = call.request.headers.get("x-stainless-helper", "").find(_WORKER_HELPER) >= 0
    return EventStreamResponse(call, session, _RequestStream(call, worker=worker))


class _RequestStream(Stream):
    """A stream together with its connection."""

    def __init__(self, call: Call, *, worker: bool) -> None:
        super().__init__(worker=worker)
        self._request = call.request

    async def forget_if_dead(self) -> None:
        """Send a ping, and end the stream if the client does not acknowledge it."""
        self.pinged.clear()
        self.events.put_nowait(_PING)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.pinged.wait(), _PING_SECONDS)
        if await forget_if_dead(self._request):
            await self.closed.wait()


class EventStreamResponse(StreamingResponse):
    """The server-sent events of one session. Every record has an `event:` line."""

    def __init__(self, call: Call, session: Session, stream: Stream) -> None:
        super().__init__(_records(call, session, stream), media_type="text/event-stream")
        self._call, self._session, self._stream = call, session, stream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve until the client leaves, the session is deleted or a fault severs the stream."""
        if await self._call.request.is_disconnected():
            # A fault may have held this request until its client was gone, which may have opened another
            # stream since.
            return
        ledger, worker = self._call.cloud.ledger, self._stream.worker
        others = [each for each in self._session.streams if each.worker and worker]
        # Attach the stream before the answer starts, so that it misses no event.
        self._session.streams.add(self._stream)
        try:
            for other in others:
                await other.forget_if_dead()
            ledger.stream_opened(self._session.id, worker=worker)
            try:
                await super().__call__(scope, receive, send)
            finally:
                ledger.stream_closed(self._session.id, worker=worker)
        finally:
            self._session.streams.discard(self._stream)
            self._stream.closed.set()


async def _records(call: Call, session: Session, stream: Stream) -> AsyncIterator[bytes]:
    sent = 0
    limit = call.action.after_events if call.action is not None and call.action.action == "sever" else None
    yield _record("ping", _PING)
    while limit is None or sent < limit:
        try:
            event = await asyncio.wait_for(stream.events.get(), call.cloud.settings.events.ping_seconds)
        except TimeoutError:
            yield _record("ping", _PING)
            continue
        if event is None:
            return
        yield _record(event["type"], event)
        if event is _PING:
            stream.pinged.set()
            continue
        sent += 1
        if event["type"] == "session.deleted":
            return
    session.streams.discard(stream)
    await cut(call.request)


def _record(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


OPERATIONS = [
    Operation("sessions.create", "POST", "/v1/sessions", _API, _create),
    Operation("sessions.list", "GET", "/v1/sessions", _API, _list),
    Operation("sessions.get", "GET", _SESSION, _ANY, _get),
    Operation("sessions.update", "POST", _SESSION, _API, _update),
    Operation("sessions.delete", "DELETE", _SESSION, _API, _delete),
    Operation("sessions.archive", "POST", f"{_SESSION}/archive", _API, _archive),
    Operation("events.list", "GET", f"{_SESSION}/events", _ANY, _list_events),
    Operation("events.send", "POST", f"{_SESSION}/events", _ANY, _send_events),
    Operation("events.stream", "GET", f"{_SESSION}/events/stream", _ANY, _stream_events),
]
