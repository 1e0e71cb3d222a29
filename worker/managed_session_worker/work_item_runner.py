"""Runs the SDK's `EnvironmentWorker.handle_item` once, and adds the rules that the SDK leaves to others."""

import asyncio
import base64
import json
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

from anthropic import AsyncAnthropic
from anthropic import Middleware as SDKMiddleware
from anthropic.lib.environments import EnvironmentWorker
from anthropic.lib.tools.agent_toolset import AgentToolContext

from managed_session_worker import call_deaths
from managed_session_worker.attach_deadline import AttachDeadline
from managed_session_worker.bash_tool import agent_toolset
from managed_session_worker.call_context import calling_tool_use
from managed_session_worker.call_reports import reported
from managed_session_worker.connections import Connections
from managed_session_worker.earlier_commands import EarlierCommands
from managed_session_worker.event_history import RetryingEventHistory
from managed_session_worker.event_reader import EventReader
from managed_session_worker.heartbeat_retry import HeartbeatRetry
from managed_session_worker.idle_watch import IdleWatch
from managed_session_worker.interrupted_calls import InterruptedCalls
from managed_session_worker.lapsed_lease import LeaseCallsHeldBack, held_back
from managed_session_worker.late_messages import Holder, LateMessages, LocalLeaseAnswers
from managed_session_worker.memory_stores import MemoryStores
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
from managed_session_worker.shell_client import ShellClient
from managed_session_worker.side_by_side import ThreadCalls, side_by_side
from managed_session_worker.suspend_detector import ClockReading, SuspendDetectingSelector, SuspendDetector
from managed_session_worker.tool_results import CompletedCalls, RetryingResults
from managed_session_worker.user_wait import UserWait, UserWaitReports
from managed_session_worker.worker_log import logger
from managed_session_worker.workspace import aside_of

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

    def __init__(
        self, request: StartRequest, paths: Paths, reporter: Reporter, shells: socket.socket
    ) -> None:
        self._request = request
        self._shells = ShellClient(shells, lambda hangs: reporter.report("shells", hangs=hangs))
        self._earlier_commands = EarlierCommands()
        self._paths = paths
        self._reporter = reporter
        self._first_heartbeat_seen = False
        self._reported_calls: dict[str, dict[str, object]] = {}
        self._handling: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._connections = Connections(request.proxy, request.certificate_authorities)
        user_wait = UserWaitReports(self._report_wait)
        self._wait_report: asyncio.Task[None] | None = None
        self._memory = MemoryStores(
            Path(paths.memory),
            aside_of(paths, request.claim),
            report=lambda failures: reporter.report("memory", failures=failures),
            report_unsynchronised=lambda files: reporter.report("unsynchronised", paths=files),
        )
        interrupted = InterruptedCalls(self._check_calls)
        self._idle_watch = IdleWatch(
            self._leave_idle,
            request.max_idle_seconds,
            lambda returns: reporter.report("returns", returns=returns),
        )
        self._user_wait = UserWait(user_wait.changed)
        self._thawed = asyncio.Event()
        """Set while it is not known who serves the session, after a pause that the lease did not survive."""
        self._event_reader = EventReader(
            interrupted,
            self._user_wait,
            self._idle_watch,
            self._earlier_commands,
            on_more=self._idle_watch.pause,
        )
        self.suspend_detector = SuspendDetector(self._lease_expired, on_resume=self._resumed)
        self._tracker = OutcomeTracker(
            on_heartbeat=self._heartbeat,
            on_counts=self._counted,
            on_lease_lost=self._lease_lost,
            on_result_refused=self._result_refused,
        )
        self._calls = ThreadCalls(
            request.max_parallel_calls,
            unwanted=interrupted,
            alone=lambda call: call_deaths.is_last_attempt(
                call, request.call_deaths, request.tool_call_attempts
            ),
            ended=self._tracker.tool_interrupted,
        )
        # Shared with late messages: a call that ran before the stop must not run again after it.
        self._completed_calls = CompletedCalls(
            calling_tool_use.get, self._tracker.was_posted, self._calls.is_cut
        )

    async def run(self) -> Ending:
        """Serve the item, then any late message, and return why the run ended."""
        request, tracker = self._request, self._tracker
        token = session_token(request)
        if token is None:
            message = "the work secret holds no sessions token, and there is no environment key"
            return ExitReason.ERROR, message
        for handler in (LogObserver(tracker), self._memory.log_handler):
            logging.getLogger("anthropic").addHandler(handler)
        asyncio.get_running_loop().add_signal_handler(RESUMED_SIGNAL, self._connections.reset, "resumed")
        async with self._connections.client() as http_client:
            # Given a credential, the SDK does not look for one in files that the agent may have written.
            self._client = AsyncAnthropic(
                base_url=request.base_url,
                auth_token=token,
                http_client=http_client,
                # The SDK's own spans would need an exporter in the sandbox. Anthropic's join by the header.
                open_telemetry=False,
                default_headers={"traceparent": request.traceparent} if request.traceparent else None,
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
                await self._handle_item(LeaseCallsHeldBack(self._thawed.is_set))
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
            self._memory,
            RequestObserver(tracker, download_skills=request.environment_key is not None),
            HeartbeatRetry(),
        )
        worker = EnvironmentWorker(
            client,
            environment_key=request.environment_key,
            workdir=self._paths.workdir,
            tools=lambda context: held_back(
                self._completed_calls.once(self._tools(context)), self._thawed.is_set
            ),
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
            with side_by_side(self._calls), self._memory.shared():
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
        left = left or tracker.found_stopped or self._thawed.is_set()
        if not left or not await late.wait_for_this_worker():
            return
        self._thawed.clear()
        logger.info("a message came while the work item was being stopped; serving it now")
        self._reporter.report("late", at=now())
        tracker.ending = None
        self._start(self._leave_when_taken(late))
        await self._handle_item(LocalLeaseAnswers(self.suspend_detector.renew))

    async def _leave_when_taken(self, late: LateMessages) -> None:
        """Leave once another worker can take over. Running tool calls are finished first."""
        if await late.until_taken() is Holder.OTHERS:
            logger.info("the session's work is queued again; leaving after the calls that run")
            self._stop(ExitReason.IDLE, "the session's work is queued again")
        else:
            self._stop(ExitReason.CREDENTIAL_REJECTED, "the session token is refused")

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        return task

    def _heartbeat(self, sent: ClockReading, seconds: float) -> None:
        if seconds > 0:
            self.suspend_detector.renew(sent, seconds)
        if not self._first_heartbeat_seen:
            self._first_heartbeat_seen = True
            logger.info("first heartbeat answered; lease held for %.0f s", seconds)
            self._reporter.report("heartbeat", at=now())

    def _counted(self, counts: dict[str, int]) -> None:
        self._reporter.report("counts", **counts)
        calls = self._tracker.calls
        if calls.keys() != self._reported_calls.keys():
            # Sent before a call runs: if it ends this worker, the supervisor knows which calls ran. The
            # supervisor may read this only after the worker's end, too late to count earlier memory kills.
            known, kills = self._reported_calls, call_deaths.memory_kills()
            self._reported_calls = {
                call: known.get(call) or {"id": call, "tool": tool, "memoryKills": kills, "startedAt": now()}
                for call, tool in calls.items()
            }
            self._reporter.report("calls", calls=list(self._reported_calls.values()))

    def _report_wait(self, calls: list[dict[str, str]]) -> None:
        """Report that the session waits for its user, or no longer does.

        Once it is reported, the sandbox may be paused for long, and may be lost meanwhile. So what the agent
        has written into memory stores is uploaded first.
        """
        if self._wait_report is not None:
            self._wait_report.cancel()
        if calls:
            self._wait_report = self._start(self._flush_and_report(calls))
        else:
            self._reporter.report("awaiting", calls=[])

    async def _flush_and_report(self, calls: list[dict[str, str]]) -> None:
        await self._memory.flush()
        self._reporter.report("awaiting", calls=calls)

    def _check_calls(self) -> None:
        self._calls.check()

    def _tools(self, context: AgentToolContext) -> list[Any]:
        request = self._request
        tools = call_deaths.refuse_fatal_calls(
            agent_toolset(context, self._shells, self._earlier_commands.had_results),
            request.call_deaths,
            request.tool_call_attempts,
            calling_tool_use.get,
        )
        if not request.report_calls:
            return tools
        return reported(tools, calling_tool_use.get, lambda call: self._reporter.report("call", call=call))

    def _leave_idle(self) -> None:
        # Otherwise the SDK is leaving already, and must finish its stop of the work item.
        if self._tracker.ending is None:
            self._stop(ExitReason.IDLE, "the session was idle")

    def _lease_expired(self, seconds: float) -> None:
        message = f"frozen for {seconds:.0f} s, past the end of the lease"
        if not self._user_wait.waits or self._tracker.tool_running or self._thawed.is_set():
            self._reporter.end(ExitReason.THAWED, message)
        # Nothing was running. Whoever can serve the session now does, and that may be nobody but this worker.
        self._thawed.set()
        self._resumed(seconds)
        self._stop(ExitReason.THAWED, message)

    def _resumed(self, seconds: float) -> None:
        self._connections.reset(f"a clock jumped by {seconds:.0f} s")

    def _lease_lost(self, reason: ExitReason, message: str) -> None:
        if self._thawed.is_set():
            return
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


def run_work_item(request: StartRequest, paths: Paths, reporter: Reporter, shells: int) -> Ending:
    """Serve one work item to its end, on an event loop of its own.

    Args:
        request: What to serve.
        paths: The sandbox's paths.
        reporter: Reports to the supervisor.
        shells: Descriptor of the socket on which the supervisor sends connections to the shell host.

    Returns:
        Why it ended. Some endings leave the process through `reporter.end` instead.
    """
    item = WorkItemRunner(request, paths, reporter, socket.socket(fileno=shells))
    selector = SuspendDetectingSelector(item.suspend_detector)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as loop:
        return loop.run(item.run())
