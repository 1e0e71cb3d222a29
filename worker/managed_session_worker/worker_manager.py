"""Manages the sandbox's worker: at most one runs, the newest claim wins, and a claim is served once."""

import gc
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from managed_session_worker import call_deaths, processes, protocol
from managed_session_worker.agent_process import marker
from managed_session_worker.call_deaths import killed_by
from managed_session_worker.neighbours import Neighbours
from managed_session_worker.paths import Paths
from managed_session_worker.privileges import Account
from managed_session_worker.protocol import Event, ExitReason, StartRequest
from managed_session_worker.shell_supervision import ShellSupervision
from managed_session_worker.supervisor_state import Record, SupervisorState
from managed_session_worker.wire import RefusalCode, RequestRejectedError, refused
from managed_session_worker.worker import run_worker
from managed_session_worker.worker_log import open_worker_log
from managed_session_worker.workspace import give_to, keep_reserve, remove_stale_requests

KILL_SECONDS = 10.0
"""How long all processes of a superseded worker may take to be gone after SIGKILL."""
HAND_OVER_SECONDS = 200.0
"""Enough for the longest tool call (150 s), the check for queued work, and the delivery of the result."""
MAX_LISTENERS = 4
"""Listeners per claim. A listener whose stream was cut may stay connected for ever."""
OUTLIVED_LEASE = "it hung or froze until its lease had lapsed"
"""Why a live worker is superseded."""
COUNTERS = ("toolCalls", "toolErrors", "toolCallsInterrupted", "resultsPosted", "resultsRefused", "returns")

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Receives the events of the claim that it asked about, up to the final one."""

    def send(self, event: Event) -> None:
        """Pass one event on."""


@dataclass
class RunningWorker:
    """The forked worker."""

    claim: str
    pid: int
    reports: int
    shells: socket.socket
    """Where it waits for connections to the shell host."""
    began: int
    """When it was forked, in the unit of the process table."""
    unread: bytes = b""
    ended: tuple[ExitReason, str] | None = None
    takeover_requested_at: float | None = None
    """When a newer claim first asked to replace this worker, which serves a late message (monotonic)."""


class WorkerManager:
    """Forks, watches and kills workers. Not thread-safe: one event loop calls it.

    Args:
        paths: The paths of the sandbox or, in a shared one, of the session that is served.
        account: The user of workers and tools.
        neighbours: The other supervisors of a shared sandbox, whose processes are spared.
        enter: Answers a request to start a session's supervisor.
    """

    def __init__(
        self, paths: Paths, account: Account, neighbours: Neighbours, enter: Callable[[Any], Event]
    ) -> None:
        self._paths = paths
        self._account = account
        self._neighbours = neighbours
        self._enter = enter
        self._reaper = processes.Reaper()
        self._shells = ShellSupervision(paths, account, self._reaper, neighbours)
        self._state = SupervisorState(paths)
        self._listeners: dict[str, list[Listener]] = {}
        self._survivors: list[int] = []
        """Processes of an ended worker that survived SIGKILL; the next start must kill them first."""
        self.running: RunningWorker | None = None

    def recover(self) -> None:
        """Clean up after an earlier supervisor: kill its processes and record how its claim ended.

        Then start the shell host, so that it is part of a template's snapshot.
        """
        uid = self._account.uid if self._account.exclusive else None
        mark, spares = marker(self._paths), self._neighbours.spares
        left = processes.kill_all(
            lambda table: processes.marked(table, mark, uid, spares), self._reaper, KILL_SECONDS
        )
        if left:
            logger.error("processes of an earlier worker are still alive: %s", left)
        if (record := self._state.running) is not None:
            cause = killed_by(None, _memory_kills(record))
            self._finish(ExitReason.KILLED, "the supervisor ended, and the worker with it", None, cause)
        self._start_shells()

    def handle(self, document: Mapping[str, Any], listener: Listener) -> None:
        """Handle one request; the listener gets its events at once or as they happen."""
        claim: str | None = None
        try:
            if document.get("command") == "status":
                listener.send(self._status())
                return
            if document.get("command") == "enter":
                listener.send(self._enter(document.get("session")))
                return
            claim = protocol.claim_of(document)
            match document.get("command"):
                case "start":
                    self._start(StartRequest.parse(document), listener)
                case "watch":
                    self._record_leader(protocol.epoch_of({"epoch": 0, **document}))
                    self._watch(claim, listener)
                    if document.get("resumed") is True:
                        self._signal_resume(claim)
                case "stop":
                    self._stop(claim, protocol.epoch_of(document), listener)
                case _:
                    raise RequestRejectedError(
                        RefusalCode.BAD_REQUEST, "command must be start, watch, stop, status or enter"
                    )
        except RequestRejectedError as error:
            listener.send(refused(error, epoch=self._state.highest_epoch, claim=claim))
        except OSError as error:
            # Usually the agent has filled the disk.
            rejection = RequestRejectedError(
                RefusalCode.START_FAILED, f"the supervisor's state could not be written: {error.strerror}"
            )
            listener.send(refused(rejection, epoch=self._state.highest_epoch, claim=claim))

    def forget(self, listener: Listener) -> None:
        """Drop a listener that has disconnected; the worker goes on."""
        for listeners in self._listeners.values():
            if listener in listeners:
                listeners.remove(listener)

    def read_reports(self) -> None:
        """Read and apply what the worker has reported so far."""
        running = self.running
        if running is None:
            return
        while True:
            try:
                data = os.read(running.reports, 65536)
            except BlockingIOError:
                break
            if not data:
                break
            running.unread += data
        *lines, running.unread = running.unread.split(b"\n")
        for line in lines:
            report = json.loads(line)
            if report["report"] == "shells":
                # The host that it was connected with has ended, or hangs.
                if report["hangs"]:
                    self._shells.kill()
                self._connect_shells(running)
            else:
                self._take_report(running, report)

    def children_changed(self) -> None:
        """Reap the children that have ended, and finish the claim if the worker is one of them."""
        self._shells.check()
        self._reaper.reap()
        running = self.running
        status = self._reaper.take(running.pid) if running else None
        if running is None or status is None:
            return
        self.read_reports()
        cause: str | None = None
        if running.ended is not None:
            reason, message = running.ended
        elif os.WIFSIGNALED(status):
            reason, message = ExitReason.KILLED, f"the worker was killed by signal {os.WTERMSIG(status)}"
            cause = killed_by(status, _memory_kills(self._state.running))
        else:
            reason = ExitReason.ERROR
            message = f"the worker ended with status {os.WEXITSTATUS(status)} and no report"
        if reason.gives_lease_back or self._waited(reason):
            # Background processes live on, also through a pause.
            self._shells.release()
        else:
            self._survivors = self._shells.end_work(running.pid, running.began)
        self._finish(reason, message, status, cause)

    def kill_running(self, reason: ExitReason, message: str, cause: str | None = None) -> None:
        """Kill the worker and everything that its unfinished calls have started, and finish its claim.

        Idle shells and background processes of earlier calls live on.

        Args:
            reason: Why the worker ends.
            message: The same for a person.
            cause: What ended the worker, for the agent, if the message does not say it.

        Raises:
            RequestRejectedError: `StartFailed` if a process survived; the claim then stays as it is.
        """
        running = self.running
        if running is None or self._survivors:
            self._survivors = self._kill_descendants()
        else:
            self._survivors = self._shells.end_work(running.pid, running.began)
        self._finish_killed(running, reason, message, cause)

    def close(self, reason: ExitReason, message: str) -> None:
        """Kill everything below this process, shells and background processes too, and finish the claim.

        A session's supervisor also kills what else runs in the session's mount namespace. The supervisor of
        a shared sandbox spares those of the sessions.
        """
        self._survivors = self._kill_descendants(mates=True)
        self._finish_killed(self.running, reason, message)

    def _kill_descendants(self, *, mates: bool = False) -> list[int]:
        own = {os.getpid()}

        def below(table: dict[int, processes.Process]) -> Iterator[processes.Process]:
            yield from processes.descendants(table, own, self._neighbours.supervisors(table))
            if mates:
                yield from self._neighbours.mates(table)

        return processes.kill_all(below, self._reaper, KILL_SECONDS)

    def _finish_killed(
        self, running: RunningWorker | None, reason: ExitReason, message: str, cause: str | None = None
    ) -> None:
        if self._survivors:
            message = f"processes of the earlier worker survived SIGKILL: {self._survivors}"
            raise RequestRejectedError(RefusalCode.START_FAILED, message)
        if running is not None:
            self.read_reports()
            self._finish(reason, message, self._reaper.take(running.pid), cause)

    def _start(self, request: StartRequest, listener: Listener) -> None:
        state = self._state
        if request.epoch < state.highest_epoch:
            raise _stale_epoch(request.epoch, state.highest_epoch)
        state.record_epoch(request.epoch)
        if self._known(request.claim):
            self._watch(request.claim, listener)
            return
        if (request.epoch, request.claim) < state.newest:
            raise RequestRejectedError(
                RefusalCode.STALE_CLAIM, f"claim {state.newest_claim} is newer and was started already"
            )
        if self.running is not None or self._survivors:
            self._spare_late_worker(request.claim)
            message = f"claim {request.claim} took over"
            if not self._kill_waiting_worker(message):
                self.kill_running(ExitReason.SUPERSEDED, message, OUTLIVED_LEASE)
        deaths = call_deaths.merged(state.deaths, request.call_deaths)
        self._fork(replace(request, call_deaths=deaths))
        self._watch(request.claim, listener)

    def _waited(self, reason: ExitReason) -> bool:
        """Return whether a worker that outlived its lease did nothing but wait for the session's user.

        No call of it was cut off, so the next worker repeats none. The agent's background processes are those
        of finished calls, and live on as after an orderly end.
        """
        record = self._state.running or {}
        waited = bool(record.get("awaiting")) and not record.get("calls")
        return waited and reason in (ExitReason.THAWED, ExitReason.SUPERSEDED)

    def _kill_waiting_worker(self, message: str) -> bool:
        """Kill a worker that waits for the session's user, and leave the agent's background processes alive.

        Return False if there is none, or if it began a call after all: a worker reports each call first.
        """
        running = self.running
        if running is None or self._survivors or not self._waited(ExitReason.SUPERSEDED):
            return False
        with suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        status = self._reaper.take(running.pid)
        while status is None and time.monotonic() < deadline:
            time.sleep(0.01)
            self._reaper.reap()
            status = self._reaper.take(running.pid)
        self.read_reports()
        if status is None or not self._waited(ExitReason.SUPERSEDED):
            return False
        self._finish(ExitReason.SUPERSEDED, message, status)
        return True

    def _spare_late_worker(self, claim: str) -> None:
        """Refuse a newer claim while a worker that serves a late message may still finish its tool calls.

        Such a worker has no lease and leaves by itself once the session's work is queued again. If it were
        killed during a call, the next worker would run that call a second time.
        """
        running, record = self.running, self._state.running
        if running is None or record is None or not record.get("lateSince"):
            return
        now = time.monotonic()
        running.takeover_requested_at = running.takeover_requested_at or now
        if now - running.takeover_requested_at < HAND_OVER_SECONDS:
            raise RequestRejectedError(
                RefusalCode.BUSY,
                f"claim {running.claim} is still serving a late message; {claim} has to wait",
            )

    def _fork(self, request: StartRequest) -> None:
        supervisor = os.getpid()
        try:
            give_to(self._account, self._paths)
            remove_stale_requests(self._paths, request.claim)
            log = open_worker_log(self._paths.worker_log)
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            record = self._state.begin(request)
            # The child closes descriptors by number, so no object of the parent may be finalized there.
            gc.freeze()
            began = processes.boot_ticks()
            with processes.signals_held():
                pid = os.fork()
                if pid == 0:
                    run_worker(
                        request,
                        paths=self._paths,
                        account=self._account,
                        report_to=writing,
                        shells=theirs.detach(),
                        log_to=log,
                        supervisor=supervisor,
                    )
        except OSError as error:
            if self._state.running is not None:
                self._finish(ExitReason.START_FAILED, f"the worker could not be forked: {error}", None)
            raise RequestRejectedError(
                RefusalCode.START_FAILED, f"the worker could not be started: {error}"
            ) from error
        os.close(log)
        os.close(writing)
        theirs.close()
        record["pid"] = pid
        self._reaper.watch(pid)
        self._shells.worker = pid
        self.running = RunningWorker(request.claim, pid, reading, channel, began)
        self._state.checkpoint()
        self._connect_shells(self.running)

    def _start_shells(self) -> None:
        try:
            self._shells.start()
        except OSError as error:
            logger.error("the shell host could not be started: %s", error)  # noqa: TRY400 - for the log

    def _connect_shells(self, running: RunningWorker) -> None:
        """Give the worker a connection to the shell host. Without one, only its calls of `bash` fail."""
        try:
            self._shells.connect(running.shells)
        except OSError as error:
            logger.error("no shell host for claim %s: %s", running.claim, error)  # noqa: TRY400 - for the log

    def _record_leader(self, epoch: int) -> None:
        """Reject earlier leaders from now on. A full disk must not keep the new leader from watching."""
        try:
            self._state.record_epoch(epoch)
        except OSError as error:
            logger.warning("could not write epoch %s: %s", epoch, error.strerror)

    def _watch(self, claim: str, listener: Listener) -> None:
        record = self._state.running if self._is_running(claim) else self._state.record(claim)
        if record is None:
            raise RequestRejectedError(
                RefusalCode.UNKNOWN_CLAIM, "this supervisor has never started that claim"
            )
        pid, awaiting = record.get("pid") or 0, record.get("awaiting") or ()
        deaths = record.get("callDeaths") or self._state.deaths
        listener.send(protocol.accepted(claim, pid, record["startedAt"], deaths, awaiting))
        if record["firstHeartbeatAt"]:
            listener.send(protocol.heartbeat(claim, record["firstHeartbeatAt"]))
        if record.get("lateSince"):
            listener.send(protocol.late(claim, record["lateSince"]))
        for call in record.get("callReports") or ():
            listener.send(protocol.call_ended(claim, call))
        if record["reason"]:
            listener.send(protocol.exited(claim, record))
        else:
            listeners = self._listeners.setdefault(claim, [])
            for oldest in listeners[: 1 - MAX_LISTENERS]:
                replaced = RequestRejectedError(RefusalCode.REPLACED, "newer listeners have taken its place")
                oldest.send(refused(replaced, epoch=self._state.highest_epoch, claim=claim))
            listeners.append(listener)

    def _signal_resume(self, claim: str) -> None:
        """Signal the worker that its sandbox was paused; the pause may be too short for its clocks to show.

        The worker installs the signal's handler before its first heartbeat; until then the signal would
        kill it.
        """
        record = self._state.running
        if self.running is not None and self._is_running(claim) and record and record["firstHeartbeatAt"]:
            with suppress(ProcessLookupError):
                os.kill(self.running.pid, protocol.RESUMED_SIGNAL)

    def _stop(self, claim: str, epoch: int, listener: Listener) -> None:
        if epoch < self._state.highest_epoch:
            raise _stale_epoch(epoch, self._state.highest_epoch)
        if not self._known(claim):
            raise RequestRejectedError(
                RefusalCode.UNKNOWN_CLAIM, "this supervisor has never started that claim"
            )
        self._state.record_epoch(epoch)
        if self._is_running(claim):
            self.kill_running(ExitReason.KILLED, "the operator asked for it")
        record = self._state.record(claim)
        if record is not None:
            listener.send(protocol.exited(claim, record))

    def _status(self) -> Event:
        return {
            "event": "status",
            "pid": os.getpid(),
            "epoch": self._state.highest_epoch,
            "claim": self._state.newest_claim or None,
            "running": self._state.running,
            "account": self._account.name,
        }

    def _is_running(self, claim: str) -> bool:
        return self.running is not None and self.running.claim == claim

    def _known(self, claim: str) -> bool:
        return self._is_running(claim) or self._state.record(claim) is not None

    def _take_report(self, running: RunningWorker, report: Mapping[str, Any]) -> None:
        record = self._state.running
        if record is None:
            return
        match report.get("report"):
            case "heartbeat":
                record["firstHeartbeatAt"] = report["at"]
                self._state.checkpoint()
                self._broadcast(protocol.heartbeat(running.claim, report["at"]))
            case "late":
                record["lateSince"] = report["at"]
                self._state.checkpoint()
                self._broadcast(protocol.late(running.claim, report["at"]))
            case "counts" | "returns":
                record.update({name: report[name] for name in COUNTERS if name in report})
            case "calls":
                self._state.record_calls(report["calls"])
            case "call" | "awaiting" as kind:
                (self._note_call if kind == "call" else self._note_wait)(running.claim, record, report)
            case "unsynchronised":
                record["unsynchronised"] = list(report["paths"])
            case "memory":
                record["memoryFailures"] = list(report["failures"])
            case "ended":
                running.ended = (ExitReason.named(report["reason"]) or ExitReason.ERROR, report["message"])

    def _note_call(self, claim: str, record: Record, report: Mapping[str, Any]) -> None:
        call = report["call"]
        record["callReports"] = [*record.get("callReports", ()), call][-protocol.MOST_CALL_REPORTS :]
        self._broadcast(protocol.call_ended(claim, call))

    def _note_wait(self, claim: str, record: Record, report: Mapping[str, Any]) -> None:
        record["awaiting"] = list(report["calls"])
        self._broadcast(protocol.awaiting(claim, record["awaiting"]))

    def _finish(
        self, reason: ExitReason, message: str, status: int | None, cause: str | None = None
    ) -> Record:
        running, self.running = self.running, None
        if running is not None:
            os.close(running.reports)
            running.shells.close()
            self._shells.worker = None
        if self._state.running is not None:
            self._state.running.pop("awaiting", None)
        record = self._state.finish(reason, message, status=status, cause=cause)
        keep_reserve(self._paths)
        logger.info("claim %s ended: %s", record["claim"], reason)
        self._broadcast(protocol.exited(record["claim"], record))
        self._listeners.pop(record["claim"], None)
        return record

    def _broadcast(self, event: Event) -> None:
        for listener in list(self._listeners.get(event["claim"], [])):
            listener.send(event)


def _memory_kills(record: Record | None) -> int | None:
    """Return how many processes had been killed for lack of memory when the record's newest call began."""
    calls = record["calls"] if record is not None else []
    kills: int | None = calls[-1].get("memoryKills") if calls else None
    return kills


def _stale_epoch(epoch: int, highest: int) -> RequestRejectedError:
    return RequestRejectedError(
        RefusalCode.STALE_EPOCH, f"epoch {epoch} is older than {highest}: another leader took over"
    )
