"""A stand-in for a sandbox's supervisor and worker, for measurements of what is outside of sandboxes.

Its calls are on the wire as the worker's are, but fewer: one heartbeat, the session's events, a result for
each tool call, and the end of its work item. It executes nothing: the result of each tool call is "ok".
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import aiohttp
from managed_session_worker import protocol
from managed_session_worker.protocol import ExitReason, StartRequest
from managed_session_worker.wire import RefusalCode, RequestRejectedError, refused

_LOOK_AGAIN_SECONDS: Final = 0.1
_CALL_SECONDS: Final = 60
_NO_HEARTBEAT: Final = "NO_HEARTBEAT"
_PAGE: Final = 1000


class _Claim:
    """The events of one claim, for any number of listeners."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.changed.set()
        self.changed = asyncio.Event()


class StubSupervisor:
    """Serves claims as a supervisor does, with workers that are tasks of this process.

    Args:
        running: set while the sandbox is not paused.
        now: returns the current time in the protocol's format.
    """

    def __init__(self, running: asyncio.Event, now: Callable[[], str] = protocol.now) -> None:
        self._running = running
        self._now = now
        self._claims: dict[str, _Claim] = {}
        self._http: aiohttp.ClientSession | None = None

    async def command(self, name: str, claim: str, request: str = "") -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of `start`, `watch` or `stop`. `request` is the line of a `start`."""
        found = self._claims.get(claim)
        if name == "start" and found is None:
            found = self._claims[claim] = _Claim()
            found.task = asyncio.create_task(self._serve(StartRequest.parse(json.loads(request)), found))
        if found is None:
            unknown = RequestRejectedError(RefusalCode.UNKNOWN_CLAIM, "this claim was never started")
            yield refused(unknown, epoch=None, claim=claim)
            return
        if name == "stop" and found.task is not None:
            found.task.cancel()
            found.emit(protocol.exited(claim, self._record(claim, ExitReason.STOPPED)))
        sent = 0
        while True:
            changed = found.changed
            for event in found.events[sent:]:
                yield event
                sent += 1
                if event["event"] == "exited":
                    return
            await changed.wait()

    async def close(self) -> None:
        """End all workers without a word."""
        tasks = [each.task for each in self._claims.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def _serve(self, request: StartRequest, claim: _Claim) -> None:
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS))
        record = self._record(request.claim, ExitReason.IDLE)
        claim.emit(protocol.accepted(request.claim, 0, record["startedAt"], {}))
        worker = StubWorker(self._http, request, self._running)
        try:
            await worker.heartbeat()
            record["firstHeartbeatAt"] = self._now()
            claim.emit(protocol.heartbeat(request.claim, record["firstHeartbeatAt"]))
            record["toolCalls"] = await worker.serve()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            record.update(reason=ExitReason.ERROR, message=type(error).__name__)
        record["finishedAt"] = self._now()
        claim.emit(protocol.exited(request.claim, record))

    def _record(self, claim: str, reason: ExitReason) -> dict[str, Any]:
        return {"claim": claim, "reason": reason, "message": "", "toolCalls": 0, "startedAt": self._now()}


class StubWorker:
    """Serves one work item, as Anthropic's worker does, by fewer calls."""

    def __init__(self, http: aiohttp.ClientSession, request: StartRequest, running: asyncio.Event) -> None:
        self._http = http
        self._running = running
        self._idle_seconds = request.max_idle_seconds
        self._work = f"{request.base_url}/v1/environments/{request.environment_id}/work/{request.work_id}"
        self._events = f"{request.base_url}/v1/sessions/{request.session_id}/events"
        secret = request.work_secret or ""
        bundle = json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
        self._headers = {"authorization": f"Bearer {bundle['sessions_token']}"}

    async def heartbeat(self) -> None:
        """Take the lease, which lasts five minutes: longer than any turn that is served here."""
        await self._call("POST", f"{self._work}/heartbeat", expected_last_heartbeat=_NO_HEARTBEAT)

    async def serve(self) -> int:
        """Answer tool calls until the session was idle for `maxIdleSeconds`. Return how many there were."""
        calls, idle_before = 0, None
        while True:
            events = await self._history()
            answered = {event.get("tool_use_id") for event in events}
            open_calls = [
                event["id"]
                for event in events
                if event["type"] == "agent.tool_use" and event["id"] not in answered
            ]
            if open_calls:
                calls += len(open_calls)
                await self._call("POST", self._events, {"events": [_result(each) for each in open_calls]})
            elif not _idle(events):
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            elif idle_before == len(events):
                await self._call("POST", f"{self._work}/stop", {"force": True})
                return calls
            else:
                idle_before = len(events)
                await asyncio.sleep(self._idle_seconds)

    async def _history(self) -> list[dict[str, Any]]:
        answer = await self._call("GET", self._events, order="asc", limit=str(_PAGE))
        data: list[dict[str, Any]] = answer["data"]
        return data

    async def _call(
        self, method: str, url: str, body: dict[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        await self._running.wait()
        async with self._http.request(
            method, url, json=body, params=query, headers=self._headers, raise_for_status=True
        ) as answer:
            document: dict[str, Any] = await answer.json()
            return document


def _result(call: str) -> dict[str, Any]:
    return {"type": "user.tool_result", "tool_use_id": call, "content": [{"type": "text", "text": "ok"}]}


def _idle(events: list[dict[str, Any]]) -> bool:
    """Return whether the newest word about the session's state is that it is idle."""
    states = [event["type"] for event in events if event["type"].startswith("session.status_")]
    return not states or states[-1] == "session.status_idle"
