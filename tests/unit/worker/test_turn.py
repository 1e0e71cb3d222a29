from pathlib import Path

from .worker_sandbox import FIRST, Sandbox
from .worker_wire import Wire


def test_a_turn_runs_from_the_first_heartbeat_to_an_idle_exit_record(sandbox: Sandbox, wire: Wire) -> None:
    attach = sandbox.start()
    assert attach.event("accepted")["claim"] == FIRST
    attach.event("heartbeat")
    wire.say()
    output, is_error = wire.run("echo $((6*7)); pwd; echo $FROM_THE_SANDBOX")
    assert (output, is_error) == (f"42\n{sandbox.paths.workdir}\nyes", False)
    assert wire.run("false")[1]
    wire.end_turn()
    record = attach.record()
    assert record["reason"] == "Idle"
    assert (record["exitCode"], record["signal"]) == (0, None)
    assert (record["toolCalls"], record["toolErrors"], record["resultsPosted"]) == (2, 1, 2)
    assert record["resultsRefused"] == 0
    assert record["startedAt"] <= record["firstHeartbeatAt"] <= record["finishedAt"]
    assert Path(sandbox.paths.exits, f"{FIRST}.json").exists()
    assert wire.count("POST", "/stop") == 1
    assert "executing tool tool=bash" in sandbox.log()
    assert "posted result tool_use_id=" in sandbox.log()
