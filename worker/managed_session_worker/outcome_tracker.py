"""Tracks what a run of the SDK's worker does, from its requests and log lines.

`EnvironmentWorker.handle_item` returns normally for most outcomes, so this module works out why it ended. SDK
middleware shows each HTTP attempt; everything else comes from the log lines of the pinned SDK.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

from anthropic import AnthropicError, APIStatusError
from anthropic import Middleware as SDKMiddleware

from managed_session_worker.protocol import ExitReason
from managed_session_worker.suspend_detector import ClockReading
from managed_session_worker.tool_results import results_of
from managed_session_worker.worker_log import logger

_HEARTBEAT = re.compile(r"/work/[^/]+/heartbeat$")
_EVENTS = re.compile(r"/v1/sessions/[^/]+/events$")
_STREAM = re.compile(r"/v1/sessions/[^/]+/events/stream$")
_SESSION = re.compile(r"/v1/sessions/[^/]+$")
_SKILLS = "/v1/skills/"
_SKIPPED = ("tool %r not owned by this runner", "thread terminated; not posting the result")
_RETRIED = frozenset({408, 409, 429})
"""4xx answers that the SDK retries (anthropic.lib._retry)."""

Ending = tuple[ExitReason, str]


class SkillsFromOperatorError(AnthropicError):
    """Skills are not downloaded in the sandbox. The SDK logs this as a warning and goes on."""


class OutcomeTracker:
    """Counts tool calls and results, and finds out why the run ends. Reports changes through callbacks."""

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
            on_heartbeat: Called when a heartbeat has extended the lease, with the time it was sent and the
                lease's length in seconds.
            on_counts: Called when the counters of the exit record have changed.
            on_lease_lost: Called when the lease can't be kept, with the reason and a message for people.
            on_result_refused: Called when a tool call's result will not be delivered, with the tool use ID
                and a message.
        """
        self._on_heartbeat = on_heartbeat
        self._on_counts = on_counts
        self._on_lease_lost = on_lease_lost
        self._on_result_refused = on_result_refused
        self._called: set[str] = set()
        self._failed: set[str] = set()
        self._posted: set[str] = set()
        self._refused: set[str] = set()
        self._in_flight: dict[str, str] = {}
        self._statuses: dict[str, int] = {}
        self._interrupted: set[str] = set()
        self.ending: Ending | None = None
        self.found_stopped = False
        """Whether the work item was stopped before this worker could take its lease."""
        self._lease_held = False

    @property
    def tool_running(self) -> bool:
        """Whether a tool call has begun whose result is neither delivered nor given up."""
        return bool(self._in_flight)

    def was_posted(self, identifier: str) -> bool:
        """Return whether the result of a tool call has been delivered."""
        return identifier in self._posted

    @property
    def calls(self) -> dict[str, str]:
        """Tools of the calls whose results are neither delivered nor given up, by ID, in order of start."""
        return dict(self._in_flight)

    def conclude(self, reason: ExitReason, message: str) -> None:
        """Record why the run ends. The first reason wins."""
        if self.ending is None:
            self.ending = (reason, message)

    def heartbeat_answered(self, sent: ClockReading, status: int, body: object) -> None:
        """Handle an answer to a heartbeat."""
        if status in (401, 403):
            self.lease_lost(f"the heartbeat was answered {status}", ExitReason.CREDENTIAL_REJECTED)
        elif status == 412:
            self.lease_lost("the heartbeat was answered 412: another worker holds the lease, or it lapsed")
        elif 400 <= status < 500 and status not in _RETRIED:
            self.conclude(ExitReason.ERROR, f"the heartbeat was answered {status}")
        elif status == 200 and isinstance(body, dict):
            seconds = body.get("ttl_seconds")
            self._on_heartbeat(sent, float(seconds) if isinstance(seconds, int | float) else 0.0)
            state = body.get("state")
            if state in ("stopping", "stopped") or body.get("lease_extended") is False:
                self.found_stopped = state == "stopped" and not self._lease_held
                self.conclude(ExitReason.STOPPED, f"the work item is {state}")
            else:
                self._lease_held = True

    def lease_lost(self, message: str, reason: ExitReason = ExitReason.LEASE_LOST) -> None:
        """Handle the loss of the lease: no heartbeat will extend it any more."""
        self.conclude(reason, message)
        self._on_lease_lost(reason, message)

    def session_answered(self, status: int, body: object) -> None:
        """Handle an answer to the GET of the session."""
        if status in (401, 403):
            self.conclude(
                ExitReason.CREDENTIAL_REJECTED, f"the request for the session was answered {status}"
            )
        elif status == 404:
            self.conclude(ExitReason.SESSION_ENDED, "the session does not exist any more")
        elif status == 200 and isinstance(body, dict) and body.get("status") == "terminated":
            self.conclude(ExitReason.SESSION_ENDED, "the session is terminated")

    def stream_answered(self, status: int) -> None:
        """Handle an answer to the opening of the event stream."""
        if status in (401, 403):
            self.conclude(ExitReason.CREDENTIAL_REJECTED, f"the event stream was answered {status}")
        elif status == 404:
            self.conclude(ExitReason.SESSION_ENDED, "the session's event stream does not exist any more")
        elif 400 <= status < 500 and status not in _RETRIED:
            self.conclude(ExitReason.ERROR, f"the event stream was answered {status}")

    def results_answered(self, results: list[tuple[str, bool]], status: int) -> None:
        """Handle an answer to a post of tool results, given as tool use IDs and whether the tool failed."""
        for identifier, is_error in results:
            self._called.add(identifier)
            if is_error:
                self._failed.add(identifier)
            self._statuses[identifier] = status
            if 200 <= status < 300:
                self._posted.add(identifier)
                self._in_flight.pop(identifier, None)
                logger.info("posted result tool_use_id=%s is_error=%s", identifier, is_error)
        self._count()

    def tool_started(self, identifier: str, tool: str) -> None:
        """Handle the start of a tool call."""
        self._called.add(identifier)
        self._in_flight[identifier] = tool
        self._count()

    def tool_skipped(self, identifier: str) -> None:
        """Handle a tool call that turned out to be for somebody else."""
        self._called.discard(identifier)
        self._in_flight.pop(identifier, None)
        self._count()

    def tool_interrupted(self, identifier: str) -> None:
        """Handle a tool call that was ended, or not run, because nobody waits for it any more."""
        if identifier in self._called and identifier not in self._posted:
            self._interrupted.add(identifier)
        self._in_flight.pop(identifier, None)
        self._count()

    def result_given_up(self, identifier: str) -> None:
        """Handle a result that the SDK will not try to deliver again."""
        self._refused.add(identifier)
        self._in_flight.pop(identifier, None)
        self._count()
        status = self._statuses.get(identifier)
        answer = f"was answered {status}" if status else "got no answer"
        self._on_result_refused(identifier, f"the result of tool call {identifier} {answer}")

    def _count(self) -> None:
        self._on_counts(
            {
                "toolCalls": len(self._called),
                "toolErrors": len(self._failed),
                "toolCallsInterrupted": len(self._interrupted),
                "resultsPosted": len(self._posted),
                "resultsRefused": len(self._refused - self._posted),
            }
        )


class RequestObserver(SDKMiddleware):
    """Shows an `OutcomeTracker` every request of the SDK's worker.

    Args:
        tracker: Gets each answer.
        download_skills: False keeps the SDK from downloading skills. The skills API accepts an environment
            key only. The operator has put the skills in place, and a download would replace them and remove
            them later.
    """

    def __init__(self, tracker: OutcomeTracker, *, download_skills: bool) -> None:
        self._tracker = tracker
        self._download_skills = download_skills

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on and inspect its answer."""
        path = str(request.url).split("?", 1)[0]
        if path.startswith(_SKILLS) and not self._download_skills:
            raise SkillsFromOperatorError(
                "skills come from the operator and are not downloaded in the sandbox"
            )
        sent = ClockReading.take()
        response = await call_next(request)
        status: int = response.status_code
        if _HEARTBEAT.search(path):
            self._tracker.heartbeat_answered(sent, status, await _document(response, status))
        elif _STREAM.search(path):
            self._tracker.stream_answered(status)
        elif _EVENTS.search(path) and request.method.lower() == "post":
            self._tracker.results_answered(results_of(request.json), status)
        elif _SESSION.search(path):
            self._tracker.session_answered(status, await _document(response, status))
        return response


class LogObserver(logging.Handler):
    """Shows an `OutcomeTracker` what only the SDK's log lines reveal. They are matched before formatting."""

    def __init__(self, tracker: OutcomeTracker) -> None:
        super().__init__(logging.INFO)
        self._tracker = tracker

    def emit(self, record: logging.LogRecord) -> None:
        """Inspect one log record."""
        text, arguments = str(record.msg), record.args if isinstance(record.args, tuple) else ()
        if text.startswith("executing tool ") and len(arguments) == 2:
            self._tracker.tool_started(str(arguments[1]), str(arguments[0]))
        elif text.startswith(_SKIPPED) and len(arguments) == 2:
            self._tracker.tool_skipped(str(arguments[1]))
        elif text.startswith("failed to send tool result") and arguments:
            self._tracker.result_given_up(str(arguments[0]))
        elif text.startswith("lease assumed lost"):
            self._tracker.lease_lost("no heartbeat succeeded for the length of the lease")
        elif text.startswith("session idle for "):
            self._tracker.conclude(ExitReason.IDLE, "the session was idle")
        elif text == "session terminated":
            self._tracker.conclude(ExitReason.SESSION_ENDED, "the session was terminated or deleted")


def ending_of_error(error: BaseException) -> Ending:
    """Return why `handle_item` raised an exception."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, APIStatusError):
        if error.status_code in (401, 403):
            return ExitReason.CREDENTIAL_REJECTED, f"Anthropic answered {error.status_code}"
        if error.status_code == 404:
            return ExitReason.SESSION_ENDED, "the session does not exist any more"
        return ExitReason.ERROR, f"Anthropic answered {error.status_code}"
    return ExitReason.ERROR, f"{type(error).__name__}: {error}"


async def _document(response: Any, status: int) -> object:
    if status != 200:
        return None
    try:
        return await response.json()
    except ValueError:
        return None
