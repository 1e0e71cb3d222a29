"""Memory stores in the worker: what was written is uploaded before a wait and before the exit record."""

from __future__ import annotations

from pathlib import Path

import pytest

from .memory_wire import MEMORIES, STORE
from .worker_sandbox import FIRST, SECOND, TOKEN, Sandbox
from .worker_wire import Wire


@pytest.fixture
def store(sandbox: Sandbox, wire: Wire) -> Path:
    """The folder of the session's store, which has one memory already."""
    root = Path(sandbox.paths.memory, "notes")
    wire.stores.content["old.md"] = "old"
    wire.stores.attach(str(root))
    return root


def ask(wire: Wire) -> str:
    """Have the agent call a tool for which the user is asked."""
    identifier = wire.emit(
        "agent.tool_use", name="bash", input={"command": "true"}, evaluated_permission="ask"
    )
    wire.emit("session.status_idle", stop_reason={"type": "requires_action", "event_ids": [identifier]})
    return identifier


def allow(wire: Wire, identifier: str) -> None:
    wire.emit("user.tool_confirmation", tool_use_id=identifier, result="allow")
    wire.answer(identifier)


def test_what_was_written_is_uploaded_before_a_wait_is_reported(
    sandbox: Sandbox, wire: Wire, store: Path
) -> None:
    client = sandbox.start()
    wire.say()
    assert wire.run(f"cat {store}/old.md; printf new > {store}/new.md; printf changed > {store}/old.md") == (
        "old",
        False,
    )
    assert "new.md" not in wire.stores.content, "a sync comes 15 s after the one before"
    identifier = ask(wire)
    assert client.event("awaiting")["calls"]
    assert wire.stores.content == {"new.md": "new", "old.md": "changed"}
    allow(wire, identifier)
    wire.end_turn()
    assert client.record()["memoryFailures"] == []


def test_what_was_written_is_uploaded_before_the_exit_record_and_the_stop(
    sandbox: Sandbox, wire: Wire, store: Path
) -> None:
    client = sandbox.start()
    wire.say()
    wire.run(f"printf new > {store}/new.md")
    wire.end_turn()
    record = client.record()
    assert wire.stores.content["new.md"] == "new"
    assert record["memoryFailures"] == []
    made = [(method, path) for method, path, _ in wire.calls]
    stop = next(place for place, (_, path) in enumerate(made) if path.endswith("/stop"))
    assert made.index(("POST", MEMORIES)) < stop
    assert not store.exists()


def test_what_could_not_be_uploaded_is_in_the_exit_record(sandbox: Sandbox, wire: Wire, store: Path) -> None:
    client = sandbox.start()
    wire.say()
    wire.stores.refuse_writes_with = 403
    wire.run(f"printf new > {store}/new.md")
    wire.end_turn()
    [failure] = client.record()["memoryFailures"]
    assert failure["store"] == STORE
    assert "'new.md' could not be uploaded" in failure["why"]
    assert TOKEN not in failure["why"]


def test_upload_that_succeeds_later_is_no_failure(sandbox: Sandbox, wire: Wire, store: Path) -> None:
    client = sandbox.start()
    wire.say()
    wire.stores.refuse_writes_with = 403
    wire.run(f"printf new > {store}/new.md")
    identifier = ask(wire)
    client.event("awaiting")
    assert "new.md" not in wire.stores.content
    wire.stores.refuse_writes_with = None
    allow(wire, identifier)
    wire.end_turn()
    assert client.record()["memoryFailures"] == []
    assert wire.stores.content["new.md"] == "new"


def test_file_that_anthropic_rejects_stays_a_failure(sandbox: Sandbox, wire: Wire, store: Path) -> None:
    client = sandbox.start()
    wire.say()
    wire.stores.refuse_writes_with = 400
    wire.run(f"printf new > {store}/new.md")
    identifier = ask(wire)
    client.event("awaiting")
    allow(wire, identifier)
    wire.end_turn()
    [failure] = client.record()["memoryFailures"]
    assert "'new.md' was rejected by Anthropic" in failure["why"]


def test_store_whose_marker_the_agent_removes_is_reported_and_blocks_no_later_turn(
    sandbox: Sandbox, wire: Wire, store: Path
) -> None:
    client = sandbox.start(FIRST)
    wire.say()
    wire.run(f"rm {store}/.anthropic-memory-store; printf x > {store}/mine.md")
    wire.end_turn()
    failures = client.record()["memoryFailures"]
    assert failures
    assert all(each["why"].startswith("its folder was changed") for each in failures)
    assert store.exists()
    client = sandbox.start(SECOND)
    wire.say()
    assert wire.run(f"ls {store}") == ("old.md", False)
    wire.end_turn()
    record = client.record()
    assert (record["reason"], record["memoryFailures"]) == ("Idle", [])
    [kept] = record["unsynchronised"]
    assert Path(kept).read_text() == "x"


def test_link_in_the_place_of_a_store_is_moved_aside(sandbox: Sandbox, wire: Wire, store: Path) -> None:
    target = Path(sandbox.paths.workdir, "target")
    store.parent.mkdir(parents=True, exist_ok=True)
    store.symlink_to(target)
    client = sandbox.start()
    wire.say()
    assert wire.run(f"cat {store}/old.md") == ("old", False)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert not target.exists()


def test_only_what_a_killed_worker_had_not_uploaded_is_reported(
    sandbox: Sandbox, wire: Wire, store: Path
) -> None:
    sandbox.start(FIRST).event("heartbeat")
    wire.say()
    wire.run(f"printf new > {store}/new.md; printf changed > {store}/old.md")
    wire.stores.content["old.md"] = "changed"  # as if this one had been uploaded
    client = sandbox.start(SECOND)
    client.event("heartbeat")
    wire.run("true")
    wire.end_turn()
    [kept] = client.record()["unsynchronised"]
    assert kept.endswith("/notes/new.md")
    assert Path(kept).read_text() == "new"


def test_store_that_cannot_be_mounted_is_the_message_of_the_exit_record(
    sandbox: Sandbox, wire: Wire, store: Path
) -> None:
    wire.stores.refuse_reads_with = 403
    record = sandbox.start().record()
    assert record["reason"] == "Error"
    assert record["message"].startswith("SessionMemoryError: ")
    assert STORE in record["message"]
    assert not store.exists()


def test_upload_that_hangs_does_not_keep_a_wait_from_being_reported(
    sandbox: Sandbox, wire: Wire, store: Path
) -> None:
    client = sandbox.start()
    wire.say()
    wire.run(f"printf new > {store}/new.md")
    wire.stores.open.clear()
    identifier = ask(wire)
    client.event("awaiting")
    assert "new.md" not in wire.stores.content
    wire.stores.open.set()
    allow(wire, identifier)
    wire.end_turn()
    assert client.record()["memoryFailures"] == []
    assert wire.stores.content["new.md"] == "new"
