"""What survives a supervisor: the newest claim and epoch, and one exit record per claim."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from managed_session_worker.paths import Paths
from managed_session_worker.protocol import ExitReason, StartRequest, now

Record = dict[str, Any]
#: Records kept on disk; the operator reads one within seconds of its making.
KEPT_RECORDS = 100

logger = logging.getLogger(__name__)


class Ledger:
    """The state file and the exit records. Every write is atomic; a record is on disk before it is told."""

    def __init__(self, paths: Paths) -> None:
        self._state_path = Path(paths.state)
        self._exits = Path(paths.exits)
        self._unwritten: dict[str, Record] = {}
        state = self._read(self._state_path) or {}
        self.highest_epoch: int = state.get("highestEpoch", 0)
        self.newest_epoch: int = state.get("newestEpoch", 0)
        self.newest_claim: str = state.get("newestClaim", "")
        #: The unfinished record of the claim that runs, or ran when the supervisor died.
        self.running: Record | None = state.get("running")

    @property
    def newest(self) -> tuple[int, str]:
        """(epoch, claim) of the newest claim that was ever started."""
        return self.newest_epoch, self.newest_claim

    def note_epoch(self, epoch: int) -> None:
        """Remember that a leader of `epoch` was heard."""
        if epoch > self.highest_epoch:
            self.highest_epoch = epoch
            self._save()

    def begin(self, request: StartRequest) -> Record:
        """Remember `request` as the newest claim before its worker is forked; gives its unfinished record."""
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
            "finishedAt": None,
            "toolCalls": 0,
            "toolErrors": 0,
            "resultsPosted": 0,
            "resultsRefused": 0,
            "unsynchronised": [],
        }
        self._save()
        return self.running

    def checkpoint(self) -> None:
        """Write the unfinished record as it is now; a full disk must not end what runs well."""
        try:
            self._save()
        except OSError:
            logger.exception("the state of claim %s could not be written", self.newest_claim)

    def finish(self, reason: ExitReason, message: str, *, status: int | None) -> Record:
        """Complete the running record, put it on disk, flush all file systems, and return it.

        Args:
            reason: Why the worker ended.
            message: The same for a person.
            status: The worker's wait status, or None when it is unknown.
        """
        record = self.running
        if record is None:
            raise RuntimeError("no claim is running")
        record["reason"], record["message"] = reason, message
        record["finishedAt"] = now()
        if status is not None:
            record["exitCode"] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            record["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        self.running = None
        try:
            _write(self._exits / f"{record['claim']}.json", record, 0o644)
            self._save()
            self._prune()
        except OSError:
            # A full disk, usually: the agent can fill it. The operator still learns how the claim ended.
            logger.exception("the exit record of claim %s could not be written", record["claim"])
            self._unwritten[record["claim"]] = record
        os.sync()
        return record

    def record(self, claim: str) -> Record | None:
        """The exit record of a finished claim, or None."""
        return self._unwritten.get(claim) or self._read(self._exits / f"{claim}.json")

    def _save(self) -> None:
        state = {
            "highestEpoch": self.highest_epoch,
            "newestEpoch": self.newest_epoch,
            "newestClaim": self.newest_claim,
            "running": self.running,
        }
        # No fsync: this has to survive the process, and a start must be quick.
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
