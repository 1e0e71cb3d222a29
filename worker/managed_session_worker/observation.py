"""What a run of the SDK's worker did, seen from its requests and log lines.

`EnvironmentWorker.handle_item` returns normally for most outcomes, so the reason for an exit is put together
here. The requests come from SDK middleware, called once per HTTP attempt; the rest from the pinned SDK's log.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

from anthropic import AnthropicError, APIStatusError
from anthropic import Middleware as SDKMiddleware

from managed_session_worker.freeze import ClockReading
from managed_session_worker.protocol import ExitReason
from managed_session_worker.worker_log import logger

_HEARTBEAT = re.compile(r"/work/[^/]+/heartbeat$")
_EVENTS = re.compile(r"/v1/sessions/[^/]+/events$")
_STREAM = re.compile(r"/v1/sessions/[^/]+/events/stream$")
_SESSION = re.compile(r"/v1/sessions/[^/]+$")
_SKILLS = "/v1/skills/"
_SKIPPED = ("tool %r not owned by this runner", "thread terminated; not posting the result")
#: 4xx answers that the SDK tries again (anthropic.lib._retry).
_RETRIED = frozenset({408, 409, 429})

Ending = tuple[ExitReason, str]


class SkillsFromOperatorError(AnthropicError):
    """Skills are not downloaded here; the SDK logs this as a warning and goes on."""


class Observer:
    """Counts and classifies; tells about each change through callbacks."""

    def __init__(
        self,
        *,
        on_heartbeat: Callable[[ClockReading, float], None],
        on_counts: Callable[[dict[str, int]], None],
        on_lease_lost: Callable[[ExitReason, str], None],
        on_result_refused: Callable[[str, str], None],
    ) -> None:
        """Take the callbacks.

        Args:
            on_heartbeat: A heartbeat extended the lease: when it was sent, and the lease's length in seconds.
            on_counts: The counters of the exit record changed.
            on_lease_lost: The lease can't be kept; why, and the same for a person.
            on_result_refused: The result of a tool call will not be delivered: tool use ID and reason.
        """
        self._on_heartbeat = on_heartbeat
        self._on_counts = on_counts
        self._on_lease_lost = on_lease_lost
        self._on_result_refused = on_result_refused
        self._called: set[str] = set()
        self._failed: set[str] = set()
        self._posted: set[str] = set()
        self._refused: set[str] = set()
        self._in_flight: set[str] = set()
        self._statuses: dict[str, int] = {}
        self.ending: Ending | None = None

    @property
    def tool_running(self) -> bool:
        """Whether a tool call has begun whose result is not disposed of yet."""
        return bool(self._in_flight)

    def conclude(self, reason: ExitReason, message: str) -> None:
        """Record why the run ends; the first reason stays."""
        if self.ending is None:
            self.ending = (reason, message)

    def heartbeat_answered(self, sent: ClockReading, status: int, body: object) -> None:
        """One answer to a heartbeat."""
        if status in (401, 403):
            self.lease_lost(f"the heartbeat was answered {status}", "CredentialRejected")
        elif status == 412:
            self.lease_lost("the heartbeat was answered 412: another worker holds the lease, or it lapsed")
        elif 400 <= status < 500 and status not in _RETRIED:
            self.conclude("Error", f"the heartbeat was answered {status}")
        elif status == 200 and isinstance(body, dict):
            seconds = body.get("ttl_seconds")
            self._on_heartbeat(sent, float(seconds) if isinstance(seconds, int | float) else 0.0)
            if body.get("state") in ("stopping", "stopped") or body.get("lease_extended") is False:
                self.conclude("Stopped", f"the work item is {body.get('state')}")

    def lease_lost(self, message: str, reason: ExitReason = "LeaseLost") -> None:
        """The lease is gone, or will be: no heartbeat extends it any more."""
        self.conclude(reason, message)
        self._on_lease_lost(reason, message)

    def session_answered(self, status: int, body: object) -> None:
        """One answer to the GET of the session."""
        if status in (401, 403):
            self.conclude("CredentialRejected", f"the request for the session was answered {status}")
        elif status == 404:
            self.conclude("SessionEnded", "the session does not exist any more")
        elif status == 200 and isinstance(body, dict) and body.get("status") == "terminated":
            self.conclude("SessionEnded", "the session is terminated")

    def stream_answered(self, status: int) -> None:
        """One answer to the opening of the event stream."""
        if status in (401, 403):
            self.conclude("CredentialRejected", f"the event stream was answered {status}")
        elif status == 404:
            self.conclude("SessionEnded", "the session's event stream does not exist any more")
        elif 400 <= status < 500 and status not in _RETRIED:
            self.conclude("Error", f"the event stream was answered {status}")

    def results_answered(self, results: list[tuple[str, bool]], status: int) -> None:
        """One answer to a post of tool results, each a tool use ID and whether the tool failed."""
        for identifier, is_error in results:
            self._called.add(identifier)
            if is_error:
                self._failed.add(identifier)
            self._statuses[identifier] = status
            if 200 <= status < 300:
                self._posted.add(identifier)
                self._in_flight.discard(identifier)
                logger.info("posted result tool_use_id=%s is_error=%s", identifier, is_error)
        self._count()

    def tool_started(self, identifier: str) -> None:
        """The SDK begins to execute a tool call."""
        self._called.add(identifier)
        self._in_flight.add(identifier)
        self._count()

    def tool_skipped(self, identifier: str) -> None:
        """The tool call turned out to be somebody else's."""
        self._called.discard(identifier)
        self._in_flight.discard(identifier)
        self._count()

    def result_given_up(self, identifier: str) -> None:
        """The SDK will not try again to deliver a result."""
        self._refused.add(identifier)
        self._in_flight.discard(identifier)
        self._count()
        status = self._statuses.get(identifier)
        answer = f"was answered {status}" if status else "got no answer"
        self._on_result_refused(identifier, f"the result of tool call {identifier} {answer}")

    def _count(self) -> None:
        self._on_counts(
            {
                "toolCalls": len(self._called),
                "toolErrors": len(self._failed),
                "resultsPosted": len(self._posted),
                "resultsRefused": len(self._refused - self._posted),
            }
        )


class RequestObserver(SDKMiddleware):
    """Shows an `Observer` every request of the SDK's worker.

    Args of the constructor:
        observer: Who is told.
        download_skills: False keeps the SDK from asking for skills, which the skills API answers to an
            environment key only; the operator has put them in place, and a download would replace and later
            remove them.
    """

    def __init__(self, observer: Observer, *, download_skills: bool) -> None:
        self._observer = observer
        self._download_skills = download_skills

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on and look at its answer."""
        path = str(request.url).split("?", 1)[0]
        if path.startswith(_SKILLS) and not self._download_skills:
            raise SkillsFromOperatorError(
                "skills come from the operator and are not downloaded in the sandbox"
            )
        sent = ClockReading.take()
        response = await call_next(request)
        status: int = response.status_code
        if _HEARTBEAT.search(path):
            self._observer.heartbeat_answered(sent, status, await _document(response, status))
        elif _STREAM.search(path):
            self._observer.stream_answered(status)
        elif _EVENTS.search(path) and request.method.lower() == "post":
            self._observer.results_answered(_results(request.json), status)
        elif _SESSION.search(path):
            self._observer.session_answered(status, await _document(response, status))
        return response


class LogObserver(logging.Handler):
    """Shows an `Observer` what only the SDK's log lines say. They are matched by their unformatted text."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(logging.INFO)
        self._observer = observer

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one log record."""
        text, arguments = str(record.msg), record.args if isinstance(record.args, tuple) else ()
        if text.startswith("executing tool ") and len(arguments) == 2:
            self._observer.tool_started(str(arguments[1]))
        elif text.startswith(_SKIPPED) and len(arguments) == 2:
            self._observer.tool_skipped(str(arguments[1]))
        elif text.startswith("failed to send tool result") and arguments:
            self._observer.result_given_up(str(arguments[0]))
        elif text.startswith("lease assumed lost"):
            self._observer.lease_lost("no heartbeat succeeded for the length of the lease")
        elif text.startswith("session idle for "):
            self._observer.conclude("Idle", "the session was idle")
        elif text == "session terminated":
            self._observer.conclude("SessionEnded", "the session was terminated or deleted")


def ending_of_error(error: BaseException) -> Ending:
    """Why `handle_item` raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, APIStatusError):
        if error.status_code in (401, 403):
            return "CredentialRejected", f"Anthropic answered {error.status_code}"
        if error.status_code == 404:
            return "SessionEnded", "the session does not exist any more"
        return "Error", f"Anthropic answered {error.status_code}"
    return "Error", f"{type(error).__name__}: {error}"


async def _document(response: Any, status: int) -> object:
    if status != 200:
        return None
    try:
        return await response.json()
    except ValueError:
        return None


def _results(body: object) -> list[tuple[str, bool]]:
    events = body.get("events") if isinstance(body, dict) else None
    found = []
    for event in events if isinstance(events, list) else []:
        identifier = event.get("tool_use_id") or event.get("custom_tool_use_id")
        if identifier:
            found.append((str(identifier), event.get("is_error") is True))
    return found
