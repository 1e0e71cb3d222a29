"""Keeps on disk what must survive a supervisor: the newest claim and epoch, and one exit record per claim."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from managed_session_worker import call_deaths
from managed_session_worker.paths import Paths
from managed_session_worker.protocol import CallDeaths, ExitReason, StartRequest, now

Record = dict[str, Any]
KEPT_RECORDS = 100
"""How many records stay on disk; the operator reads each within seconds."""

logger = logging.getLogger(__name__)


class SupervisorState:
    """The state file and the exit records. Writes are atomic; a record is on disk before it is sent."""

    def __init__(self, paths: Paths) -> None:
        self._state_path = Path(paths.state)
        self._exits = Path(paths.exits)
        self._unwritten: dict[str, Record] = {}
        state = self._read(self._state_path) or {}
        self.highest_epoch: int = state.get("highestEpoch", 0)
        self.newest_epoch: int = state.get("newestEpoch", 0)
        self.newest_claim: str = state.get("newestClaim", "")
        self.running: Record | None = state.get("running")
        """The unfinished record of the running claim, or of the one that ran when the supervisor died."""
        self.deaths: CallDeaths = state.get("callDeaths", {})
        """Tool calls of the unfinished turn that were running when a worker ended."""

    @property
    def newest(self) -> tuple[int, str]:
        """Epoch and claim of the newest start."""
        return self.newest_epoch, self.newest_claim

    def record_epoch(self, epoch: int) -> None:
        """Record that a leader with this epoch has made a request."""
        if epoch > self.highest_epoch:
            self.highest_epoch = epoch
            self._save()

    def begin(self, request: StartRequest) -> Record:
        """Record `request` as the newest claim, before its worker is forked; return the unfinished record."""
        self.deaths = request.call_deaths
        self.highest_epoch = max(self.highest_epoch, request.epoch)
        self.newest_epoch, self.newest_claim = request.epoch, request.claim
        self.running = {
            "claim": request.claim,
            "epoch": request.epoch,
            "sessionID": request.session_id,
            "workID": request.work_id,
            "reason": None,
            "message": None,
            "exitCode": None,
            "signal": None,
            "startedAt": now(),
            "firstHeartbeatAt": None,
            "lateSince": None,
            "finishedAt": None,
            "toolCalls": 0,
            "toolErrors": 0,
            "resultsPosted": 0,
            "resultsRefused": 0,
            "toolCallsInterrupted": 0,
            "returns": 0,
            "calls": [],
            "unsynchronised": [],
            "memoryFailures": [],
        }
        self._save()
        return self.running

    def record_calls(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """Record the calls that the worker runs, before a new one begins.

        Args:
            calls: Their `id` and `tool`, and `memoryKills`, the worker's `call_deaths.memory_kills` before
                each of them; in order of start. A call is left out once its result needs nothing more.
        """
        record = self.running
        if record is None:
            return
        before = {call["id"] for call in record["calls"]}
        record["calls"] = [dict(call) for call in calls]
        running = {call["id"] for call in calls}
        for ended in before - running:
            self.deaths.pop(ended, None)
        if running - before:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Write the unfinished record. A full disk must not end a worker that runs well."""
        try:
            self._save()
        except OSError:
            logger.exception("could not write the state of claim %s", self.newest_claim)

    def finish(
        self, reason: ExitReason, message: str, *, status: int | None, cause: str | None = None
    ) -> Record:
        """Complete the running record, put it on disk, flush all file systems, and return it.

        Args:
            reason: Why the worker ended.
            message: The same for a person.
            status: The worker's wait status, or None when it is unknown.
            cause: What ended it, for the agent; by default the message.
        """
        record = self.running
        if record is None:
            raise RuntimeError("no claim is being served")
        record["reason"], record["message"] = reason, message
        record["finishedAt"] = now()
        if status is not None:
            record["exitCode"] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            record["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        if reason.gives_lease_back:  # The turn is over.
            self.deaths = {}
        else:
            for call in record["calls"]:
                self.deaths = call_deaths.counted(self.deaths, call, cause or message)
        record["callDeaths"] = self.deaths
        self.running = None
        try:
            _write(self._exits / f"{record['claim']}.json", record, 0o644)
            self._save()
            self._prune()
        except OSError:
            # Usually the agent has filled the disk. The operator still learns how the claim ended.
            logger.exception("could not write the exit record of claim %s", record["claim"])
            self._unwritten[record["claim"]] = record
        os.sync()
        return record

    def record(self, claim: str) -> Record | None:
        """Return the exit record of a finished claim, or None."""
        return self._unwritten.get(claim) or self._read(self._exits / f"{claim}.json")

    def _save(self) -> None:
        state = {
            "highestEpoch": self.highest_epoch,
            "newestEpoch": self.newest_epoch,
            "newestClaim": self.newest_claim,
            "running": self.running,
            "callDeaths": self.deaths,
        }
        # No fsync: the state has to survive the process only, and a start must be quick.
        _write(self._state_path, state, 0o600, durable=False)

    def _prune(self) -> None:
        for path in sorted(self._exits.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-KEPT_RECORDS]:
            path.unlink(missing_ok=True)

    @staticmethod
    def _read(path: Path) -> Record | None:
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None


def _write(path: Path, document: Record, mode: int, *, durable: bool = True) -> None:
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
