"""Attempts of an agent in an E2B sandbox to run something as root, all of which fail."""

import os
import sys
from collections.abc import AsyncIterator

import pytest
from e2b import E2B, AsyncSandbox
from managed_session_operator.clients.e2b.worker_streams import SUPERVISORCTL

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="one user only: nobody to be kept from root")

HOME = "/opt/anthropic-managed-agents"
VERSION = f"python3.{sys.version_info.minor}"
IMAGE, OWN = f"/usr/local/lib/{VERSION}", f"{HOME}/python/lib/{VERSION}"
CODE = "import os; os.getuid() or open('/tmp/root-ran-it', 'a').write('python')"
"""Programs that the attacks want root to run. They record that they ran as root."""
SHELL = 'if [ "$(/usr/bin/id -u)" = 0 ]; then echo shell >> /tmp/root-ran-it; fi'

ATTACKS = {
    "lines appended to the standard library": [
        *(f"append {library}/struct.py {CODE!r}" for library in (IMAGE, OWN)),
        f"append {HOME}/lib/managed_session_worker/supervisorctl.py {CODE!r}",
        f"append {HOME}/lib/anthropic/__init__.py {CODE!r}",
    ],
    "modules put in the place of others": [
        f"put {IMAGE}/socket.py {CODE!r}",
        f"put {OWN}/socket.py {CODE!r}",
        f"put {HOME}/python/lib/{VERSION.replace('.', '')}.zip {CODE!r}",
        f"put {HOME}/lib/json.py {CODE!r}",
        f"put {HOME}/lib/managed_session_worker/socket.py {CODE!r}",
    ],
    "programs on PATH": [
        *(
            f"put /usr/local/{folder}/{name} '#!/bin/bash\n{SHELL}'"
            for folder in ("bin", "sbin")
            for name in ("id", "python3", "bash", "sleep")
        ),
        f"put /usr/bin/id '#!/bin/bash\n{SHELL}'",
        f"put {HOME}/python/bin/python3 '#!/bin/bash\n{SHELL}'",
    ],
    "sitecustomize, usercustomize and .pth": [
        *(
            f"put {folder}/{name} {CODE!r}"
            for folder in (f"{IMAGE}/site-packages", f"{OWN}/site-packages", IMAGE, OWN, f"{HOME}/lib")
            for name in ("sitecustomize.py", "usercustomize.py", "zz.pth")
        ),
        f"put /root/.local/lib/{VERSION}/site-packages/usercustomize.py {CODE!r}",
        f"put {HOME}/python/pyvenv.cfg 'home = /tmp'",
        f"put {HOME}/python/bin/python3._pth '/tmp'",
    ],
    "files that login shells read": [
        f"put {path} {SHELL!r}"
        for path in (
            *("/etc/profile.d/zz.sh", "/etc/profile.d/shell.sh", "/etc/profile", "/etc/bash.bashrc"),
            *("/etc/environment", "/root/.bashrc", "/root/.profile", "/root/.bash_profile"),
        )
    ],
    "the dynamic loader": [
        *(f"put {path} /tmp/evil.so" for path in ("/etc/ld.so.preload", "/etc/ld.so.conf.d/zz.conf")),
        *(
            f"put {folder}/{name} x"
            for folder in ("/usr/local/lib", f"{HOME}/python/lib", f"{HOME}/python/bin")
            for name in ("libc.so.6", f"lib{VERSION}.so.1.0", "libssl.so.3")
        ),
    ],
    "cron": [
        f"put {path} '* * * * * root {SHELL}'"
        for path in ("/etc/crontab", "/etc/cron.d/zz", "/var/spool/cron/crontabs/root", "/etc/cron.hourly/zz")
    ],
    "systemd units": [
        f"put {path} x"
        for path in (
            *("/etc/systemd/system/zz.service", "/etc/systemd/system/envd.service.d/zz.conf"),
            *("/run/systemd/system/zz.service", "/usr/local/lib/systemd/system/zz.service"),
            "/usr/lib/systemd/system/zz.service",
        )
    ],
    "the socket, the state and the logs": [
        f"put {HOME}/{name} x"
        for name in ("run/state.json", "run/supervisor.sock", "inbox/a.json", "worker.log", "supervisor.log")
    ],
    "accounts": [
        f"append {path} 'agent ALL=(ALL) NOPASSWD: ALL'"
        for path in ("/etc/sudoers", "/etc/sudoers.d/zz", "/etc/passwd", "/etc/shadow", "/etc/group")
    ],
    "the link to the working directory": ["ln -sfn /etc /workspace && echo wrote /workspace"],
}
PRELUDE = """
put() { (rm -rf "$1"; mkdir -p "$(dirname "$1")"; printf '%s\\n' "$2" > "$1" && chmod 755 "$1") 2>/dev/null \
    && echo "wrote $1"; true; }
append() { (printf '%s\\n' "$2" >> "$1") 2>/dev/null && echo "wrote $1"; true; }
"""
VARIABLES = {"PYTHONPATH": "/tmp/evil", "PYTHONSTARTUP": "/tmp/evil/struct.py", "PYTHONHOME": "/tmp/evil"}
"""Variables that E2B lets an owner set, as an image or a resource may."""


@pytest.fixture
async def sandbox(e2b: E2B, worker_build: str) -> AsyncIterator[AsyncSandbox]:
    sandbox = await e2b.AsyncSandbox.create(worker_build, envs=VARIABLES)
    yield sandbox
    await sandbox.kill()


async def attack(sandbox: AsyncSandbox, steps: list[str], user: str = "agent") -> str:
    """Run the attacks. Return what could be written."""
    run = await sandbox.commands.run("\n".join([PRELUDE, *steps, "true"]), user=user)
    return run.stdout


async def status(sandbox: AsyncSandbox) -> str:
    """Run the operator's command as root, as the operator sends it."""
    return (await sandbox.commands.run(f"{SUPERVISORCTL} status", user="root")).stdout


async def cold_boot(e2b: E2B, sandbox: AsyncSandbox) -> AsyncSandbox:
    await sandbox.pause(mode="filesystem")
    return await e2b.AsyncSandbox.connect(sandbox.sandbox_id)


async def test_the_agent_cannot_change_what_root_runs_and_root_runs_nothing_of_the_agent(
    e2b: E2B, sandbox: AsyncSandbox
) -> None:
    """In the snapshot's sandbox, after a cold boot, and with the supervisor that was started then."""
    nothing = dict.fromkeys(ATTACKS, "")
    assert {name: await attack(sandbox, steps) for name, steps in ATTACKS.items()} == nothing
    assert '"event": "status"' in await status(sandbox)
    booted = await cold_boot(e2b, sandbox)
    assert {name: await attack(booted, steps) for name, steps in ATTACKS.items()} == nothing
    assert '"account": "agent"' in await status(booted)
    assert {name: await attack(booted, steps) for name, steps in ATTACKS.items()} == nothing
    assert '"account": "agent"' in await status(booted)
    assert not await booted.files.exists("/tmp/root-ran-it")


async def test_without_the_start_command_the_image_is_writable_by_all(e2b: E2B) -> None:
    """Without the template's start command the first attacks succeed, so the simulator has E2B's weakness."""
    sandbox = await e2b.AsyncSandbox.create("base")
    written = await attack(sandbox, ATTACKS["lines appended to the standard library"], "user")
    assert written == f"wrote {IMAGE}/struct.py\n"
    await sandbox.commands.run("python3 -I -S -c 'import struct'", user="root")
    assert await sandbox.files.read("/tmp/root-ran-it", user="root") == "python"
    written = await attack(sandbox, ATTACKS["programs on PATH"], "user")
    assert "wrote /usr/local/bin/id" in written
    await sandbox.commands.run("true", user="root")
    assert "shell" in await sandbox.files.read("/tmp/root-ran-it", user="root")


async def test_nobody_logs_in_without_a_password_even_after_a_cold_boot(
    e2b: E2B, sandbox: AsyncSandbox
) -> None:
    checks = (
        "grep -c '^[^:]*::' /etc/shadow; grep -c NOPASSWD /etc/sudoers; ps -eo args | grep -c '^sshd';"
        "grep -ciE '^(PermitRootLogin|PermitEmptyPasswords) yes' /etc/ssh/sshd_config;"
        "readlink /etc/systemd/system/ssh.service; true"
    )
    open_sandbox = await e2b.AsyncSandbox.create("base")
    assert (await open_sandbox.commands.run(checks, user="root")).stdout.split() == ["2", "1", "1", "2"]
    closed = ["0", "0", "0", "0", "/dev/null"]
    assert (await sandbox.commands.run(checks, user="root")).stdout.split() == closed
    booted = await cold_boot(e2b, sandbox)
    assert (await booted.commands.run(checks, user="root")).stdout.split() == closed


async def test_usual_working_directory_is_the_session_s(sandbox: AsyncSandbox) -> None:
    written = "cd /workspace && echo hello > here && pwd -P && cat /mnt/session/here"
    assert (await sandbox.commands.run(written, user="agent")).stdout == "/mnt/session\nhello\n"


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("chmod o+w /usr/local/bin", "/usr/local/bin may be written by everyone"),
        ("chown agent /etc/profile.d", "/etc/profile.d belongs to user"),
        (f"chmod g+w {HOME}/inbox; chgrp agent {HOME}/inbox", f"{HOME}/inbox may be written by group"),
    ],
)
async def test_supervisor_of_a_cold_boot_repairs_what_it_can_and_refuses_the_rest(
    e2b: E2B, sandbox: AsyncSandbox, change: str, finding: str
) -> None:
    await sandbox.commands.run(change, user="root")
    booted = await cold_boot(e2b, sandbox)
    answer = await booted.commands.run(f"({SUPERVISORCTL} status) || true", user="root")
    if "/usr/local" in finding or "inbox" in finding:
        assert '"account": "agent"' in answer.stdout
    else:
        assert '"reason": "WritableByOthers"' in answer.stdout
        assert finding in answer.stdout


async def test_start_is_refused_if_others_can_change_what_root_would_run(sandbox: AsyncSandbox) -> None:
    await sandbox.commands.run("chmod o+w /usr/local/bin", user="root")
    await sandbox.files.write(f"{HOME}/inbox/C1.json", '{"claim": "C1"}', user="root")
    answer = await sandbox.commands.run(f"({SUPERVISORCTL} start C1) || true", user="root")
    assert '"reason": "WritableByOthers"' in answer.stdout
    assert "/usr/local/bin may be written by everyone" in answer.stdout
    assert not await sandbox.files.exists(f"{HOME}/inbox/C1.json", user="root")


async def test_own_python_is_complete_and_separate_from_the_images(sandbox: AsyncSandbox) -> None:
    python = f"{HOME}/python/bin/python3"
    program = (
        f"import sys; sys.path.insert(0, {HOME + '/lib'!r}); from managed_session_worker import preload;"
        "preload.load(); print([m.__file__ for m in list(sys.modules.values())"
        f" if not (getattr(m, '__file__', None) or {HOME!r}).startswith({HOME!r})])"
    )
    run = await sandbox.commands.run(f'env -i {python} -I -S -c "{program}"', user="agent")
    assert run.stdout == "[]\n"
