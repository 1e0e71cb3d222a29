"""A sandbox from another session's snapshot: that session's processes and records go, and its files stay."""

from __future__ import annotations

import json
import shlex
from importlib import resources

from e2b import E2B, AsyncSandbox
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient

HOME = "/opt/anthropic-managed-agents"
PROGRAM = f"{HOME}/lib/managed_session_worker/supervisor.py"
SUPERVISOR = """
import os, subprocess, time
subprocess.Popen(["sleep", "2001"], start_new_session=True)
os.setsid()
time.sleep(2000)
"""
CLEAN = resources.files("managed_session_operator.clients.e2b").joinpath("clean_sandbox.py").read_text()


async def clean(sandbox: AsyncSandbox) -> int:
    """Run the program as the operator does. Return how many processes it killed."""
    done = await sandbox.commands.run(f"python3 -I -S -c {shlex.quote(CLEAN)}", user="root")
    return int(json.loads(done.stdout)["killed"])


async def running(control: E2BSimulatorClient, sandbox: AsyncSandbox) -> str:
    listed = await sandbox.commands.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", user="root")
    assert (await control.sandbox(sandbox.sandbox_id)).state == "running"
    return listed.stdout


async def test_processes_and_records_of_the_other_session_go_and_files_stay(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    kept = ["/mnt/session/file", "/home/user/.config", f"{HOME}/run/interpreter", "/outside"]
    gone = [
        f"{HOME}/run/state.json",
        f"{HOME}/exits/claim.json",
        f"{HOME}/inbox/claim.json",
        f"{HOME}/worker.log",
        "/mnt/memory/store/note",
    ]
    for path in (*kept, *gone):
        await sandbox.files.write(path, "text", user="root")
    await sandbox.commands.run(f"ln -s /outside {HOME}/exits/link.json", user="root")
    await sandbox.files.write(PROGRAM, SUPERVISOR, user="root")
    for command, user in (
        ("setsid sleep 1001", "user"),
        ("trap '' TERM HUP; while true; do sleep 1002; done", "user"),
        (f"python3 {PROGRAM}", "root"),
        ("sleep 3001", "root"),
    ):
        await sandbox.commands.run(command, user=user, background=True, timeout=0)
    seen = ""
    while not ("sleep 1002" in seen and "sleep 2001" in seen):
        seen = await running(control, sandbox)

    assert await clean(sandbox) >= 5

    left = await running(control, sandbox)
    assert not [each for each in ("sleep 1001", "sleep 1002", "sleep 2001", PROGRAM) if each in left]
    assert "sleep 3001" in left, "what belongs to the machine goes on"
    assert all([await sandbox.files.exists(path, user="root") for path in kept])
    assert not any([await sandbox.files.exists(path, user="root") for path in gone])
    assert await clean(sandbox) == 0, "a repetition finds nothing"
