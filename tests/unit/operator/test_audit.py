"""What the audit records of sessions, and how it gets into a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from managed_session_api.audit import verify
from managed_session_operator.clients.audit_sink import AuditSink, open_sink
from managed_session_operator.clients.clock import SystemClock
from managed_session_operator.controller.access_audit import AccessAudit
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.worker_run import WorkerRun, call_report
from managed_session_operator.steps.audit_trail import AuditTrail

from .examples import CLAIM, NAME, session
from .play import Play

WRITER = """
import sys
from managed_session_operator.clients.audit_sink import open_sink
from managed_session_operator.clients.clock import SystemClock

sink = open_sink(sys.argv[1], SystemClock(), lambda: {"operator": "o", "epoch": 1}, lambda: None)
while True:
    sink.append("Claimed", {"claim": "x" * 500})
"""


def sink_for(path: Path) -> AuditSink:
    return open_sink(str(path), SystemClock(), lambda: {"operator": "o", "epoch": 3}, lambda: None)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_record_has_its_place_its_time_and_its_operator(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    sink_for(path).append("Claimed", {"claim": CLAIM, "work": None})
    started, claimed = records(path)
    assert (started["event"], started["sequence"], claimed["sequence"]) == ("ChainStarted", 0, 1)
    assert (claimed["operator"], claimed["epoch"], claimed["claim"]) == ("o", 3, CLAIM)
    assert claimed["previous"] == started["hash"]
    assert "work" not in claimed
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_process_continues_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(3):
        sink_for(path).append("Claimed", {"claim": CLAIM})
    verdict = verify(path.read_text().splitlines(keepends=True))
    assert (verdict.intact, verdict.records, len(verdict.heads)) == (True, 6, 3)
    first, second = records(path)[1:3]
    assert second["continues"] == {"chain": first["chain"], "sequence": 1}


def test_a_process_that_takes_over_continues_what_another_has_written_since(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    standby, leader = sink_for(path), sink_for(path)
    leader.append("Claimed", {"claim": CLAIM})
    standby.append("Claimed", {"claim": CLAIM})
    assert records(path)[2]["continues"]["chain"] == records(path)[1]["chain"]


def test_a_process_that_is_killed_leaves_a_file_that_the_next_one_continues(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    while not path.exists() or path.stat().st_size < 100_000:
        assert writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with path.open("ab") as file:  # a crash of the machine may leave part of a line
        file.write(path.read_bytes().splitlines()[-1][:50])
    sink_for(path).append("Claimed", {"claim": CLAIM})
    verdict = verify(path.read_text().splitlines(keepends=True))
    assert verdict.intact, verdict.findings
    assert len(verdict.heads) == 2
    assert records_after_torn(path)["torn"] is True


def records_after_torn(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text().splitlines()[-2])
    return found


def test_records_that_cannot_be_written_are_counted_and_the_chain_after_them_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit"
    lost: list[int] = []
    full = os.open("/dev/full", os.O_WRONLY)
    working = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    descriptor = os.dup(working)
    sink = AuditSink(descriptor, SystemClock(), dict, lambda: lost.append(1), is_file=False)
    sink.append("Claimed", {})
    os.dup2(full, descriptor)
    sink.append("Claimed", {})
    sink.append("Claimed", {})
    os.dup2(working, descriptor)
    sink.append("Claimed", {})
    assert len(lost) == 2
    assert "audit record lost" in caplog.text
    assert [each.get("lost") for each in records(path)] == [None, None, 2, None]


class Sink:
    """Keeps records in memory."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []

    def append(self, event: str, fields: Any) -> None:
        self.records.append((event, dict(fields)))

    def events(self) -> list[str]:
        return [event for event, _ in self.records]


def test_a_sessions_life_is_recorded() -> None:
    play, sink = Play(), Sink()
    trail = AuditTrail(sink, lambda _: play.world.resource)
    play.operator.context.audit = trail
    play.operator.context.records._followers = (trail,)
    try:
        play.turn()
        play.world.delete()
        play.settle()
    finally:
        play.teardown()
    assert [each for each in sink.events() if each != "PolicyChanged"] == [
        "Claimed",
        "SandboxAssigned",
        "SandboxPaused",
        "TurnEnded",
        "Deleted",
    ]
    ended = dict(sink.records)["TurnEnded"]
    assert (ended["resource"], ended["exitReason"]) == (NAME, "Idle")


def test_a_call_that_is_reported_again_is_recorded_once() -> None:
    sink = Sink()
    trail = AuditTrail(sink, lambda _: session())
    times = {"startedAt": "2026-11-23T17:00:00Z", "endedAt": "2026-11-23T17:00:01Z"}
    call = call_report({"id": "sevt_1", "tool": "bash", "input": f"sha256:{'0' * 64}", **times})
    assert call is not None
    for _ in range(2):
        trail.called(NAME, WorkerRun(CLAIM, "i"), call)
    trail.called(NAME, WorkerRun("another", "i"), call)
    assert sink.events() == ["ToolCalled", "ToolCalled"]


def test_a_new_leader_records_the_claims_that_it_finds() -> None:
    sink = Sink()
    served, rests = session({"work": {"claim": CLAIM, "id": "w"}}), session()
    trail = AuditTrail(sink, lambda _: None)
    trail.leads()
    trail.found(served)
    trail.found(rests)
    assert sink.events() == ["LeaderStarted", "ClaimFound"]


def test_an_exit_reason_that_a_sandbox_made_up_is_not_repeated() -> None:
    sink = Sink()
    before = session({"work": {"claim": CLAIM}})
    after = session(
        {"work": {"claim": CLAIM, "finishedAt": "2026-11-23T17:00:00Z", "exitReason": "a secret"}}
    )
    AuditTrail(sink, lambda _: None).written(before, after)
    assert dict(sink.records)["TurnEnded"]["exitReason"] == "Other"


class Accesses:
    """The Events in the namespace."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.fails = False

    async def list(self) -> list[dict[str, Any]]:
        if self.fails:
            raise OperationError(ErrorKind.TRANSIENT, None, "away")  # type: ignore[arg-type]
        return self.found


async def test_each_access_is_recorded_once_also_after_a_failed_look() -> None:
    sink, source = Sink(), Accesses()
    trail = AuditTrail(sink, lambda _: None)
    audit = AccessAudit(source, trail, 1.0)
    source.found = [{"accessEvent": "1"}]
    await audit.look(trail)
    source.fails = True
    await audit.look(trail)
    source.fails, source.found = False, [{"accessEvent": "1"}, {"accessEvent": "2"}]
    await audit.look(trail)
    assert [fields["accessEvent"] for _, fields in sink.records] == ["1", "2"]
