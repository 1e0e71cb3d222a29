"""Facts about templates and machines from E2B's source (e2b-dev/infra at 54693ff).

Two facts are not modelled, because they need their own kernel: 256 MB of the disk are reserved for root, and
commands have a cgroup with memory.max.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from e2b import E2B, AsyncTemplate
from e2b.exceptions import BuildException


async def test_a_second_build_of_the_same_template_cancels_the_first(e2b: E2B) -> None:
    slow = AsyncTemplate().from_base_image().set_start_cmd("sleep 1000", "sleep 1 && test -e /tmp/never")
    quick = AsyncTemplate().from_base_image().set_start_cmd("sleep 1000", "true")
    started = asyncio.Event()
    first = asyncio.create_task(
        e2b.AsyncTemplate.build(
            slow, "twice:v1", on_build_logs=lambda line: started.set() if "Finalizing" in str(line) else None
        )
    )
    await asyncio.wait_for(started.wait(), 30)
    second = await e2b.AsyncTemplate.build(quick, "twice:v1")
    with pytest.raises(BuildException, match="build was cancelled"):
        await first
    assert [tag.build_id for tag in await e2b.AsyncTemplate.get_tags("twice")] == [second.build_id]


async def test_usr_local_becomes_writable_after_the_steps_and_before_the_start_command(e2b: E2B) -> None:
    modes = "stat -c %a /usr/local /usr/local/bin /usr/local/lib/python3.*/struct.py > /tmp/modes"
    template = (
        AsyncTemplate()
        .from_base_image()
        .set_user("root")
        .set_start_cmd(f"{modes}; chmod -R go-w /usr/local; sleep 1000", "test -s /tmp/modes")
    )
    await e2b.AsyncTemplate.build(template, "opened")
    sandbox = await e2b.AsyncSandbox.create("opened")
    assert (await sandbox.files.read("/tmp/modes")).split() == ["777", "777", "777"]
    assert (await sandbox.commands.run("stat -c %a /usr/local")).stdout == "755\n"


async def test_root_has_no_password_sshd_runs_and_user_may_sudo(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    inspect = (
        "grep ^root: /etc/shadow; grep NOPASSWD /etc/sudoers; grep ^PermitRootLogin /etc/ssh/sshd_config;"
        "ps -eo args | grep ^sshd; stat -c %a /.e2b"
    )
    lines = (await sandbox.commands.run(inspect, user="root")).stdout.splitlines()
    assert lines[0].startswith("root::")
    assert lines[1:3] == ["user ALL=(ALL:ALL) NOPASSWD: ALL", "PermitRootLogin yes"]
    assert lines[3].startswith("sshd:")


async def test_masked_sshd_does_not_run_after_a_cold_boot(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    mask = "ln -s /dev/null /etc/systemd/system/ssh.service"
    await sandbox.commands.run(mask, user="root")
    await sandbox.pause(mode="filesystem")
    booted = await e2b.AsyncSandbox.connect(sandbox.sandbox_id)
    assert "sshd" not in (await booted.commands.run("ps -eo args", user="root")).stdout


async def test_e2bs_own_variables_win_over_those_of_the_create(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base", envs={"E2B_SANDBOX": "no", "MINE": "yes"})
    shown = (await sandbox.commands.run("env")).stdout.splitlines()
    assert {"E2B_SANDBOX=true", "MINE=yes", "E2B_EVENTS_ADDRESS=http://192.0.2.1"} <= set(shown)
    assert "E2B_SANDBOX=no" not in shown


async def test_memory_is_a_gibibyte_by_default(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    assert (await sandbox.get_info()).memory_mb == 1024


async def test_processes_are_the_first_to_be_killed_without_memory(e2b: E2B) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    score = await sandbox.commands.run("sleep 0.1; cat /proc/self/oom_score_adj; nice")
    assert score.stdout == "100\n0\n"


async def test_a_script_of_the_template_runs_as_a_step_and_its_failure_fails_the_build(
    e2b: E2B, tmp_path: Path
) -> None:
    program = "import os, sys\nopen('/srv/made', 'w').write(str(os.getuid()))\nsys.exit(len(sys.argv) - 1)\n"
    (tmp_path / "make.py").write_text(program)

    def template(arguments: str) -> Any:
        return (
            AsyncTemplate(file_context_path=str(tmp_path))
            .from_base_image()
            .set_user("root")
            .copy("make.py", "/srv/")
            .run_cmd(f"python3 /srv/make.py{arguments}")
        )

    await e2b.AsyncTemplate.build(template(""), "made")
    sandbox = await e2b.AsyncSandbox.create("made")
    assert await sandbox.files.read("/srv/made") == "0"
    with pytest.raises(BuildException, match="exit status 1"):
        await e2b.AsyncTemplate.build(template(" x"), "unmade")
