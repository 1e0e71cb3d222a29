"""One run of the SDK's `EnvironmentWorker.handle_item`, and the rules that the SDK leaves to others."""

import asyncio
import base64
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, NoReturn

from anthropic import AnthropicError, AsyncAnthropic, DefaultAsyncHttpxClient
from anthropic.lib.environments import EnvironmentWorker

from managed_session_worker.freeze import ClockReading, FreezeGuard, GuardedSelector
from managed_session_worker.history import PatientHistory
from managed_session_worker.observation import Ending, LogObserver, Observer, RequestObserver, ending_of_error
from managed_session_worker.paths import Paths
from managed_session_worker.protocol import ExitReason, StartRequest, now
from managed_session_worker.worker_log import logger

#: After a lost lease the SDK may still send memory files (two passes of 30 s); then the process must be gone.
LEASE_LOST_GRACE_SECONDS = 65.0
#: How often a question to the API is repeated when it failed, and a refused result is looked after.
RECHECK_SECONDS = 2.0
#: Enough to find out whether anything at all was said in a session.
FIRST_EVENTS = 100


class Reporter(ABC):
    """The way back to the supervisor."""

    @abstractmethod
    def report(self, kind: str, **content: object) -> None:
        """Send one report."""

    @abstractmethod
    def end(self, reason: ExitReason, message: str) -> NoReturn:
        """Report the end and leave the process at once."""


def session_token(request: StartRequest) -> str | None:
    """The token inside the work secret (base64url JSON), or the environment key where that is opted into."""
    if request.work_secret is not None:
        padded = request.work_secret + "=" * (-len(request.work_secret) % 4)
        try:
            token = json.loads(base64.urlsafe_b64decode(padded)).get("sessions_token")
        except (ValueError, AttributeError):
            token = None
        if isinstance(token, str) and token:
            return token
    return request.environment_key


class _Run:
    def __init__(self, request: StartRequest, paths: Paths, reporter: Reporter) -> None:
        self._request = request
        self._paths = paths
        self._reporter = reporter
        self._first_heartbeat_seen = False
        self._refused: dict[str, str] = {}
        self._handling: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.guard = FreezeGuard(self._thawed)
        self.observer = Observer(
            on_heartbeat=self._heartbeat,
            on_counts=lambda counts: reporter.report("counts", **counts),
            on_lease_lost=self._lease_lost,
            on_result_refused=self._result_refused,
        )

    async def serve(self) -> Ending:
        request, observer = self._request, self.observer
        token = session_token(request)
        if token is None:
            return "Error", "the work secret holds no sessions token, and there is no environment key"
        logging.getLogger("anthropic").addHandler(LogObserver(observer))
        async with DefaultAsyncHttpxClient() as http_client:
            # An explicit credential: the SDK then looks for none in files that the agent may have written.
            self._client = AsyncAnthropic(
                base_url=request.base_url, auth_token=token, http_client=http_client, open_telemetry=False
            )
            watched = self._client.with_middleware(
                PatientHistory(),
                RequestObserver(observer, download_skills=request.environment_key is not None),
            )
            worker = EnvironmentWorker(
                watched,
                environment_key=request.environment_key,
                workdir=self._paths.workdir,
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
            self._start(self._attach_deadline())
            try:
                await self._handling
            except asyncio.CancelledError:
                logger.info("the work item was stopped through the SDK")
            except Exception as error:  # noqa: BLE001 - every failure becomes an exit record
                reason, message = ending_of_error(error)
                logger.warning("the work item failed: %s", message)
                observer.conclude(reason, message)
            finally:
                for task in self._background:
                    task.cancel()
        return observer.ending or ("Idle", "the SDK's worker finished without saying why")

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)

    def _heartbeat(self, sent: ClockReading, seconds: float) -> None:
        if seconds > 0:
            self.guard.renew(sent, seconds)
        if not self._first_heartbeat_seen:
            self._first_heartbeat_seen = True
            logger.info("first heartbeat answered; lease held for %.0f s", seconds)
            self._reporter.report("heartbeat", at=now())

    def _thawed(self, seconds: float) -> None:
        self._reporter.end("Thawed", f"frozen for {seconds:.0f} s, past the end of the lease")

    def _lease_lost(self, reason: ExitReason, message: str) -> None:
        # The SDK would finish a running tool and post its result, although another worker may be at it; or,
        # when its token is refused, stop the item, which nobody would get again in the middle of a turn.
        refused_at_once = reason == "CredentialRejected" and not self._first_heartbeat_seen
        if self.observer.tool_running or refused_at_once:
            self._reporter.end(reason, message)
        self._start(self._leave_after_lease_lost(reason, message))

    async def _leave_after_lease_lost(self, reason: ExitReason, message: str) -> None:
        await asyncio.sleep(LEASE_LOST_GRACE_SECONDS)
        self._reporter.end(reason, message)

    async def _attach_deadline(self) -> None:
        """Stop the item of a session in which nothing was said: the SDK's idle clock never starts for it."""
        await asyncio.sleep(self._request.attach_timeout_seconds)
        while not await self._anything_said():
            if self._said_nothing:
                seconds = self._request.attach_timeout_seconds
                self._stop("NoMessage", f"no user message within {seconds:g} s")
                return
            await asyncio.sleep(RECHECK_SECONDS)

    _said_nothing = False

    async def _anything_said(self) -> bool:
        if self.observer.tool_running:
            return True
        try:
            page = await self._client.beta.sessions.events.list(self._request.session_id, limit=FIRST_EVENTS)
        except AnthropicError as error:
            logger.warning("could not find out whether the session has a message: %s", type(error).__name__)
            return False
        types = [str(getattr(event, "type", "")) for event in page.data]
        said = any(kind.startswith(("user.", "agent.")) or kind == "session.status_running" for kind in types)
        # More pages: a lot has happened. Taken for silence wrongly, a message's work would be stopped.
        said = said or page.has_next_page()
        self._said_nothing = not said
        return said

    def _result_refused(self, identifier: str, message: str) -> None:
        self._refused[identifier] = message
        if len(self._refused) == 1:
            self._start(self._look_after_refused_results())

    async def _look_after_refused_results(self) -> None:
        """End a worker whose session waits for a result that the API does not take.

        The SDK never tries again and never leaves. A stop would wedge the session in mid-turn; so
        this process ends hard, the lease lapses and the work is queued again. A result that the session does
        not wait for any more (the user interrupted) is no reason to leave, but the SDK's idle clock may then
        stay still: idle is decided here.
        """
        loop = asyncio.get_running_loop()
        idle_since: float | None = None
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                status = await self._last_status()
            except AnthropicError as error:
                logger.warning("could not look after a refused result: %s", type(error).__name__)
                continue
            stop_reason = getattr(status, "stop_reason", None)
            waiting = set(getattr(stop_reason, "event_ids", None) or ())
            for identifier in waiting & self._refused.keys():
                self._reporter.end("ResultRefused", self._refused[identifier])
            if getattr(status, "type", None) != "session.status_idle" or waiting:
                idle_since = None
            elif idle_since is None:
                idle_since = loop.time()
            elif loop.time() - idle_since > self._request.max_idle_seconds and not self.observer.tool_running:
                self._stop("Idle", "the session was idle, after a result that it did not wait for any more")
                return

    async def _last_status(self) -> object:
        """The newest event of the session that says what it is doing."""
        events = self._client.beta.sessions.events
        async for event in events.list(self._request.session_id, limit=FIRST_EVENTS, order="desc"):
            if str(getattr(event, "type", "")).startswith("session.status_"):
                return event
        return None

    def _stop(self, reason: ExitReason, message: str) -> None:
        """Leave the way the SDK does when it is cancelled: it stops the work item."""
        self.observer.conclude(reason, message)
        if self._handling is not None:
            self._handling.cancel()


def serve(request: StartRequest, paths: Paths, reporter: Reporter) -> Ending:
    """Serve one work item to its end, on an event loop of its own.

    Returns:
        Why it ended. Some endings leave the process through `reporter.end` instead.
    """
    run = _Run(request, paths, reporter)
    selector = GuardedSelector(run.guard)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(run.serve())
