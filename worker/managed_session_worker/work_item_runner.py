"""Runs the SDK's `EnvironmentWorker.handle_item` once, and adds the rules that the SDK leaves to others."""

import asyncio
import base64
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Coroutine
from typing import Any, NoReturn

from anthropic import AsyncAnthropic
from anthropic import Middleware as SDKMiddleware
from anthropic.lib.environments import EnvironmentWorker
from anthropic.lib.tools.agent_toolset import AgentToolContext

from managed_session_worker import call_deaths
from managed_session_worker.attach_deadline import AttachDeadline
from managed_session_worker.bash_tool import agent_toolset
from managed_session_worker.connections import Connections
from managed_session_worker.event_history import RetryingEventHistory
from managed_session_worker.event_reader import EventReader
from managed_session_worker.heartbeat_retry import HeartbeatRetry
from managed_session_worker.idle_watch import IdleWatch
from managed_session_worker.interrupted_calls import InterruptedCalls
from managed_session_worker.late_messages import Holder, LateMessages, LocalLeaseAnswers
from managed_session_worker.open_calls import NEWEST_EVENTS, still_open
from managed_session_worker.outcome_tracker import (
    Ending,
    LogObserver,
    OutcomeTracker,
    RequestObserver,
    ending_of_error,
)
from managed_session_worker.paths import Paths
from managed_session_worker.protocol import RESUMED_SIGNAL, ExitReason, StartRequest, now
from managed_session_worker.refused_results import RefusedResults
from managed_session_worker.suspend_detector import ClockReading, SuspendDetectingSelector, SuspendDetector
from managed_session_worker.tool_results import CompletedCalls, RetryingResults
from managed_session_worker.user_wait import UserWait, UserWaitReports
from managed_session_worker.worker_log import logger

LEASE_LOST_GRACE_SECONDS = 65.0
"""After a lost lease the SDK may still upload memory files (two passes of 30 s); then the process ends."""


class Reporter(ABC):
    """Reports to the supervisor."""

    @abstractmethod
    def report(self, kind: str, **content: object) -> None:
        """Send one report."""

    @abstractmethod
    def end(self, reason: ExitReason, message: str) -> NoReturn:
        """Report the end and exit at once."""


def session_token(request: StartRequest) -> str | None:
    """Return the token in the work secret (base64url JSON), or the environment key if that is opted into."""
    if request.work_secret is not None:
        padded = request.work_secret + "=" * (-len(request.work_secret) % 4)
        try:
            token = json.loads(base64.urlsafe_b64decode(padded)).get("sessions_token")
        except (ValueError, AttributeError):
            token = None
        if isinstance(token, str) and token:
            return token
    return request.environment_key


class WorkItemRunner:
    """Serves one work item with the SDK's worker, and decides how it ends where the SDK does not."""

    def __init__(self, request: StartRequest, paths: Paths, reporter: Reporter) -> None:
        self._request = request
        self._paths = paths
        self._reporter = reporter
        self._first_heartbeat_seen = False
        self._reported_call: tuple[str, str] | None = None
        self._handling: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._connections = Connections()
        user_wait = UserWaitReports(lambda calls: reporter.report("awaiting", calls=calls))
        interrupted = InterruptedCalls()
        self._idle_watch = IdleWatch(self._leave_idle, request.max_idle_seconds)
        self._event_reader = EventReader(interrupted, UserWait(user_wait.changed), self._idle_watch)
        self.suspend_detector = SuspendDetector(self._lease_expired, on_resume=self._resumed)
        self._tracker = OutcomeTracker(
            on_heartbeat=self._heartbeat,
            on_counts=self._counted,
            on_lease_lost=self._lease_lost,
            on_result_refused=self._result_refused,
        )
        # Shared with late messages: a call that ran before the stop must not run again after it.
        self._completed_calls = CompletedCalls(
            lambda: self._tracker.current_call, self._tracker.was_posted, interrupted.__contains__
        )

    async def run(self) -> Ending:
        """Serve the item, then any late message, and return why the run ended."""
        request, tracker = self._request, self._tracker
        token = session_token(request)
        if token is None:
            message = "the work secret holds no sessions token, and there is no environment key"
            return ExitReason.ERROR, message
        logging.getLogger("anthropic").addHandler(LogObserver(tracker))
        asyncio.get_running_loop().add_signal_handler(RESUMED_SIGNAL, self._connections.reset, "resumed")
        async with self._connections.client() as http_client:
            # Given a credential, the SDK does not look for one in files that the agent may have written.
            self._client = AsyncAnthropic(
                base_url=request.base_url, auth_token=token, http_client=http_client, open_telemetry=False
            )
            self._refused_results = RefusedResults(
                self._newest_events,
                tracker,
                request.max_idle_seconds,
                stop=self._stop,
                end=self._reporter.end,
            )
            self._start(AttachDeadline(self._client, request, tracker).watch(self._stop))
            try:
                await self._handle_item()
                await self._serve_late_messages()
            finally:
                for task in self._background:
                    task.cancel()
        return tracker.ending or (ExitReason.IDLE, "the SDK's worker finished without saying why")

    async def _handle_item(self, *middleware: SDKMiddleware) -> None:
        """Let the SDK serve the item to its end. A failure becomes the reason in the exit record."""
        request, tracker = self._request, self._tracker
        client = self._client.with_middleware(
            *middleware,
            RetryingResults(self._still_open),
            RetryingEventHistory(),
            self._event_reader,
            RequestObserver(tracker, download_skills=request.environment_key is not None),
            HeartbeatRetry(),
        )
        worker = EnvironmentWorker(
            client,
            environment_key=request.environment_key,
            workdir=self._paths.workdir,
            tools=lambda context: self._completed_calls.once(self._tools(context)),
            max_idle=request.max_idle_seconds,
        )
        self._handling = asyncio.create_task(
            worker.handle_item(
                work_id=request.work_id,
                environment_id=request.environment_id,
                session_id=request.session_id,
                work_secret=request.work_secret,
            )
        )
        # The events may all have been read while the item was served before.
        self._idle_watch.restart()
        try:
            await self._handling
        except asyncio.CancelledError:
            logger.info("the work item was stopped through the SDK")
        except Exception as error:  # noqa: BLE001 - every failure becomes an exit record
            reason, message = ending_of_error(error)
            logger.warning("the work item failed: %s", message)
            tracker.conclude(reason, message)
        finally:
            self._idle_watch.pause()

    async def _serve_late_messages(self) -> None:
        """Serve a message that came between the decision to leave and the stop, if no other worker will.

        Do the same if somebody stopped the item before this worker began.
        """
        tracker, late = self._tracker, LateMessages(self._client, self._request)
        left = tracker.ending is None or tracker.ending[0] in (ExitReason.IDLE, ExitReason.NO_MESSAGE)
        if not (left or tracker.found_stopped) or not await late.wait_for_this_worker():
            return
        logger.info("a message came while the work item was being stopped; serving it now")
        self._reporter.report("late", at=now())
        tracker.ending = None
        self._start(self._leave_when_taken(late))
        await self._handle_item(LocalLeaseAnswers(self.suspend_detector.renew))

    async def _leave_when_taken(self, late: LateMessages) -> None:
        """Leave once another worker can take over. A running tool call is finished first."""
        if await late.until_taken() is Holder.OTHERS:
            logger.info("the session's work is queued again; leaving after the call that runs")
            self._stop(ExitReason.IDLE, "the session's work is queued again")
        else:
            self._stop(ExitReason.CREDENTIAL_REJECTED, "the session token is refused")

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)

    def _heartbeat(self, sent: ClockReading, seconds: float) -> None:
        if seconds > 0:
            self.suspend_detector.renew(sent, seconds)
        if not self._first_heartbeat_seen:
            self._first_heartbeat_seen = True
            logger.info("first heartbeat answered; lease held for %.0f s", seconds)
            self._reporter.report("heartbeat", at=now())

    def _counted(self, counts: dict[str, int]) -> None:
        self._reporter.report("counts", **counts)
        call = self._tracker.call
        if call != self._reported_call:
            # Sent before the call runs: if it ends this worker, the supervisor knows which call it was. The
            # supervisor may read this only after the worker's end, too late to count earlier memory kills.
            self._reported_call = call
            self._reporter.report(
                "call",
                id=call[0] if call else None,
                tool=call[1] if call else None,
                memoryKills=call_deaths.memory_kills() if call else None,
            )

    def _tools(self, context: AgentToolContext) -> list[Any]:
        request = self._request
        return call_deaths.refuse_fatal_calls(
            agent_toolset(context),
            request.call_deaths,
            request.tool_call_attempts,
            lambda: self._tracker.call[0] if self._tracker.call else None,
        )

    def _leave_idle(self) -> None:
        # Otherwise the SDK is leaving already, and must finish its stop of the work item.
        if self._tracker.ending is None:
            self._stop(ExitReason.IDLE, "the session was idle")

    def _lease_expired(self, seconds: float) -> None:
        self._reporter.end(ExitReason.THAWED, f"frozen for {seconds:.0f} s, past the end of the lease")

    def _resumed(self, seconds: float) -> None:
        self._connections.reset(f"a clock jumped by {seconds:.0f} s")

    def _lease_lost(self, reason: ExitReason, message: str) -> None:
        # The SDK would finish a running tool call and post its result, although another worker may be running
        # it. With a refused token it would stop the item in mid-turn, and nobody would get the item again.
        refused_at_once = reason is ExitReason.CREDENTIAL_REJECTED and not self._first_heartbeat_seen
        if self._tracker.tool_running or refused_at_once:
            self._reporter.end(reason, message)
        self._start(self._leave_after_lease_lost(reason, message))

    async def _leave_after_lease_lost(self, reason: ExitReason, message: str) -> None:
        await asyncio.sleep(LEASE_LOST_GRACE_SECONDS)
        self._reporter.end(reason, message)

    def _result_refused(self, identifier: str, message: str) -> None:
        if self._refused_results.add(identifier, message):
            self._start(self._refused_results.watch())

    def _newest_events(self) -> AsyncIterable[object]:
        events = self._client.beta.sessions.events
        return events.list(self._request.session_id, limit=NEWEST_EVENTS, order="desc")

    async def _still_open(self, identifier: str) -> bool:
        """Return whether the session still waits for the result of a tool call."""
        return await still_open(self._newest_events(), identifier)

    def _stop(self, reason: ExitReason, message: str) -> None:
        """End the run as the SDK does when it is cancelled: it stops the work item."""
        self._tracker.conclude(reason, message)
        if self._handling is not None:
            self._handling.cancel()


def run_work_item(request: StartRequest, paths: Paths, reporter: Reporter) -> Ending:
    """Serve one work item to its end, on an event loop of its own.

    Returns:
        Why it ended. Some endings leave the process through `reporter.end` instead.
    """
    item = WorkItemRunner(request, paths, reporter)
    selector = SuspendDetectingSelector(item.suspend_detector)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as loop:
        return loop.run(item.run())
