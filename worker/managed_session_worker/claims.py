"""The rules of claims: at most one worker, the newest claim wins, a claim is served once."""

import gc
import json
import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from managed_session_worker import processes, protocol
from managed_session_worker.isolation import Account
from managed_session_worker.paths import Paths
from managed_session_worker.protocol import Event, ExitReason, RefusedError, StartRequest
from managed_session_worker.records import Ledger, Record
from managed_session_worker.worker import marker, run_worker
from managed_session_worker.worker_log import open_worker_log
from managed_session_worker.workspace import give_to, keep_reserve, remove_stale_requests

#: How long all processes of a superseded worker may take to be gone after SIGKILL.
KILL_SECONDS = 10.0
#: Who listens to one claim. One that was left behind by a cut stream never goes away by itself.
MOST_LISTENERS = 4
#: Endings that were in order: what the agent left running in the background stays, also through a pause.
ORDERLY: frozenset[str] = frozenset({"Idle", "NoMessage", "SessionEnded", "Stopped"})
COUNTERS = ("toolCalls", "toolErrors", "resultsPosted", "resultsRefused")

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Whoever asked, and hears the events of a claim up to its final one."""

    def tell(self, event: Event) -> None:
        """Pass one event on."""


@dataclass
class Running:
    """The forked worker."""

    claim: str
    pid: int
    reports: int
    unread: bytes = b""
    ended: tuple[ExitReason, str] | None = None


class Claims:
    """Forks, watches and kills workers. Not thread-safe: one loop calls it."""

    def __init__(self, paths: Paths, account: Account) -> None:
        self._paths = paths
        self._account = account
        self._reaper = processes.Reaper()
        self._ledger = Ledger(paths)
        self._listeners: dict[str, list[Listener]] = {}
        #: What an ended worker left alive in spite of SIGKILL; the next start has to kill it first.
        self._survivors: list[int] = []
        self.running: Running | None = None

    def recover(self) -> None:
        """Finish what an earlier supervisor left: kill its workers' processes and record its claim's end."""
        uid = self._account.uid if self._account.exclusive else None
        left = processes.kill_marked(marker(self._paths), uid, self._reaper, KILL_SECONDS)
        if left:
            logger.error("processes of an earlier worker are still alive: %s", left)
        if self._ledger.running is not None:
            self._finish("Killed", "the supervisor ended while the worker ran, and took it along", None)

    def handle(self, document: Mapping[str, Any], listener: Listener) -> None:
        """Do what one request asks for; the listener is told at once or as events happen."""
        claim: str | None = None
        try:
            if document.get("command") == "status":
                listener.tell(self._status())
                return
            claim = protocol.claim_of(document)
            match document.get("command"):
                case "start":
                    self._start(StartRequest.parse(document), listener)
                case "watch":
                    self._note_leader(protocol.epoch_of({"epoch": 0, **document}))
                    self._watch(claim, listener)
                case "stop":
                    self._stop(claim, protocol.epoch_of(document), listener)
                case _:
                    raise RefusedError("BadRequest", "command must be start, watch, stop or status")
        except RefusedError as error:
            listener.tell(protocol.refused(error, epoch=self._ledger.highest_epoch, claim=claim))
        except OSError as error:
            # A disk that the agent has filled, usually.
            failure = RefusedError(
                "StartFailed", f"the supervisor's state could not be written: {error.strerror}"
            )
            listener.tell(protocol.refused(failure, epoch=self._ledger.highest_epoch, claim=claim))

    def forget(self, listener: Listener) -> None:
        """The listener has gone away; the worker goes on."""
        for listeners in self._listeners.values():
            if listener in listeners:
                listeners.remove(listener)

    def read_reports(self) -> None:
        """Take in what the worker reported so far."""
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
            self._take_report(running, json.loads(line))

    def children_changed(self) -> None:
        """Some child has ended: reap it, and finish the claim if it was the worker."""
        self._reaper.reap()
        running = self.running
        status = self._reaper.take(running.pid) if running else None
        if running is None or status is None:
            return
        self.read_reports()
        if running.ended is not None:
            reason, message = running.ended
        elif os.WIFSIGNALED(status):
            reason, message = "Killed", f"the worker was killed by signal {os.WTERMSIG(status)}"
        else:
            reason, message = "Error", f"the worker ended with status {os.WEXITSTATUS(status)} and no report"
        if reason not in ORDERLY:
            self._survivors = processes.kill_descendants(self._reaper, KILL_SECONDS)
        self._finish(reason, message, status)

    def kill_running(self, reason: ExitReason, message: str) -> None:
        """Kill the worker and all that tools have started, hard, and finish its claim.

        Raises:
            RefusedError: `StartFailed` when some of it did not die; the claim then stays as it is.
        """
        running = self.running
        self._survivors = processes.kill_descendants(self._reaper, KILL_SECONDS)
        if self._survivors:
            message = f"processes of the earlier worker survived SIGKILL: {self._survivors}"
            raise RefusedError("StartFailed", message)
        if running is not None:
            self.read_reports()
            self._finish(reason, message, self._reaper.take(running.pid))

    def _start(self, request: StartRequest, listener: Listener) -> None:
        ledger = self._ledger
        if request.epoch < ledger.highest_epoch:
            raise _stale_epoch(request.epoch, ledger.highest_epoch)
        ledger.note_epoch(request.epoch)
        if self._known(request.claim):
            self._watch(request.claim, listener)
            return
        if (request.epoch, request.claim) < ledger.newest:
            raise RefusedError("StaleClaim", f"claim {ledger.newest_claim} is newer and was started already")
        if self.running is not None or self._survivors:
            self.kill_running("Superseded", f"claim {request.claim} took over")
        self._fork(request)
        self._watch(request.claim, listener)

    def _fork(self, request: StartRequest) -> None:
        supervisor = os.getpid()
        try:
            give_to(self._account, self._paths)
            remove_stale_requests(self._paths, request.claim)
            log = open_worker_log(self._paths.worker_log)
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            record = self._ledger.begin(request)
            # Nothing that exists now is collected in the child: its descriptors are closed by number there.
            gc.freeze()
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
            pid = os.fork()
            if pid == 0:
                run_worker(
                    request,
                    paths=self._paths,
                    account=self._account,
                    report_to=writing,
                    log_to=log,
                    supervisor=supervisor,
                )
        except OSError as error:
            if self._ledger.running is not None:
                self._finish("StartFailed", f"the worker could not be forked: {error}", None)
            raise RefusedError("StartFailed", f"the worker could not be started: {error}") from error
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(log)
        os.close(writing)
        record["pid"] = pid
        self.running = Running(request.claim, pid, reading)
        self._ledger.checkpoint()

    def _note_leader(self, epoch: int) -> None:
        """Refuse from now on what an earlier leader still sends; a full disk must not deafen this one."""
        try:
            self._ledger.note_epoch(epoch)
        except OSError as error:
            logger.warning("epoch %s not written: %s", epoch, error.strerror)

    def _watch(self, claim: str, listener: Listener) -> None:
        record = self._ledger.running if self._is_running(claim) else self._ledger.record(claim)
        if record is None:
            raise RefusedError("UnknownClaim", "this supervisor has never started that claim")
        listener.tell(protocol.accepted(claim, record.get("pid") or 0, record["startedAt"]))
        if record["firstHeartbeatAt"]:
            listener.tell(protocol.heartbeat(claim, record["firstHeartbeatAt"]))
        if record["reason"]:
            listener.tell(protocol.exited(claim, record))
        else:
            listeners = self._listeners.setdefault(claim, [])
            for oldest in listeners[: 1 - MOST_LISTENERS]:
                replaced = RefusedError("Replaced", "others have begun to listen since")
                oldest.tell(protocol.refused(replaced, epoch=self._ledger.highest_epoch, claim=claim))
            listeners.append(listener)

    def _stop(self, claim: str, epoch: int, listener: Listener) -> None:
        if epoch < self._ledger.highest_epoch:
            raise _stale_epoch(epoch, self._ledger.highest_epoch)
        if not self._known(claim):
            raise RefusedError("UnknownClaim", "this supervisor has never started that claim")
        self._ledger.note_epoch(epoch)
        if self._is_running(claim):
            self.kill_running("Killed", "the operator asked for it")
        record = self._ledger.record(claim)
        if record is not None:
            listener.tell(protocol.exited(claim, record))

    def _status(self) -> Event:
        return {
            "event": "status",
            "pid": os.getpid(),
            "epoch": self._ledger.highest_epoch,
            "claim": self._ledger.newest_claim or None,
            "running": self._ledger.running,
            "account": self._account.name,
        }

    def _is_running(self, claim: str) -> bool:
        return self.running is not None and self.running.claim == claim

    def _known(self, claim: str) -> bool:
        return self._is_running(claim) or self._ledger.record(claim) is not None

    def _take_report(self, running: Running, report: Mapping[str, Any]) -> None:
        record = self._ledger.running
        if record is None:
            return
        match report.get("report"):
            case "heartbeat":
                record["firstHeartbeatAt"] = report["at"]
                self._ledger.checkpoint()
                self._tell(protocol.heartbeat(running.claim, report["at"]))
            case "counts":
                record.update({name: report[name] for name in COUNTERS})
            case "unsynchronised":
                record["unsynchronised"] = list(report["paths"])
            case "ended":
                running.ended = (report["reason"], report["message"])

    def _finish(self, reason: ExitReason, message: str, status: int | None) -> Record:
        running, self.running = self.running, None
        if running is not None:
            os.close(running.reports)
        record = self._ledger.finish(reason, message, status=status)
        keep_reserve(self._paths)
        logger.info("claim %s ended: %s", record["claim"], reason)
        self._tell(protocol.exited(record["claim"], record))
        self._listeners.pop(record["claim"], None)
        return record

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners.get(event["claim"], [])):
            listener.tell(event)


def _stale_epoch(epoch: int, highest: int) -> RefusedError:
    return RefusedError("StaleEpoch", f"epoch {epoch} is older than {highest}: another leader took over")
