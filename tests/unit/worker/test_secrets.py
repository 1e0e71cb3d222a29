import os
import re
from pathlib import Path

import pytest

from .worker_sandbox import AGENT_UID, FIRST, SECOND, SECRET, TOKEN, Sandbox
from .worker_wire import Wire

SECRETS = (TOKEN, SECRET)


def readable_text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_the_secret_is_in_no_argument_environment_or_file(sandbox: Sandbox, wire: Wire) -> None:
    client = sandbox.start(logLevel="DEBUG")
    client.event("heartbeat")
    wire.say()
    wire.run("env > environment.txt")
    own = os.getpid()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != own:
            for name in ("environ", "cmdline"):
                assert not any(secret in readable_text(process / name) for secret in SECRETS), process
    files = [path for path in sandbox.root.rglob("*") if path.is_file()]
    assert Path(sandbox.paths.worker_log) in files
    for path in files:
        assert not any(secret in readable_text(path) for secret in SECRETS), path
    assert not list(Path(sandbox.paths.inbox).iterdir())
    assert wire.calls[0][2] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("account", [str(AGENT_UID), "no-such-account"])
def test_the_agents_shell_cannot_read_the_worker_or_the_supervisor(
    stopped_sandbox: Sandbox, wire: Wire, account: str
) -> None:
    sandbox = stopped_sandbox
    sandbox.start_supervisor(account)
    client = sandbox.start()
    worker = client.event("accepted")["pid"]
    assert sandbox.supervisor is not None
    wire.say()
    host = wire.run("echo $PPID")[0]
    assert Path(f"/proc/{host}/comm").read_text() == "shell-host\n"
    for pid in (worker, host, sandbox.supervisor.pid):
        for name in ("environ", "mem", "maps", "fd/0", "stack", "syscall"):
            output, is_error = wire.run(f"head -c 1 /proc/{pid}/{name}")
            assert is_error, (name, output)
            assert "ermission denied" in output or "not permitted" in output or "No such" in output, output
    output, _ = wire.run("grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/self/status")
    assert re.search(r"CapEff:\s0+$", output, re.MULTILINE)
    assert re.search(r"NoNewPrivs:\s1$", output, re.MULTILINE)
    assert wire.run(f"setsid python3 -IS {sandbox.library}/supervisorctl.py status")[1], (
        "the agent may not command"
    )


def test_the_agents_shell_is_an_unprivileged_user_without_access_to_the_supervisor(
    sandbox: Sandbox, wire: Wire
) -> None:
    sandbox.start()
    wire.say()
    paths = sandbox.paths
    for command in (
        f"ls {paths.run}",
        f"ls {paths.inbox}",
        f"echo x >> {paths.worker_log}",
        f"rm -f {paths.exits}/*.json; touch {paths.exits}/x",
        f"touch {sandbox.library}/x.py",
    ):
        output, is_error = wire.run(command)
        assert is_error, command
        assert "ermission denied" in output
    assert wire.run("id -u")[0] != "0"
    assert wire.run("touch outputs/a skills/b c && echo fine") == ("fine", False)


def test_unclaimed_requests_do_not_stay_in_the_inbox(sandbox: Sandbox) -> None:
    Path(sandbox.paths.inbox, f"{FIRST}.json").write_text("{}")
    sandbox.start(SECOND).event("heartbeat")
    assert not list(Path(sandbox.paths.inbox).iterdir())


def test_variables_of_the_sdk_do_not_reach_the_agent(sandbox: Sandbox, wire: Wire) -> None:
    sandbox.start()
    wire.say()
    output, _ = wire.run("env")
    assert "FROM_THE_SANDBOX=yes" in output
    assert "ANTHROPIC_" not in output
    assert f"PWD={sandbox.paths.workdir}" in output


def test_the_worker_downloads_no_skills_and_keeps_the_operators(sandbox: Sandbox, wire: Wire) -> None:
    skill = Path(sandbox.paths.workdir, "skills", "pdf", "SKILL.md")
    skill.parent.mkdir(parents=True)
    skill.write_text("how to")
    wire.skills = [{"type": "anthropic", "skill_id": "pdf", "version": "latest"}]
    client = sandbox.start()
    wire.say()
    assert wire.run("cat skills/pdf/SKILL.md") == ("how to", False)
    wire.end_turn()
    assert client.record()["reason"] == "Idle"
    assert skill.read_text() == "how to"
    assert wire.count("GET", "latest") == 0
