import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from e2b import E2B
from managed_session_devkit.simulators.e2b.client import E2BSimulatorClient


async def test_two_sandboxes_have_their_own_files_and_processes_at_the_same_paths(e2b: E2B) -> None:
    one, two = [await e2b.AsyncSandbox.create("base") for _ in range(2)]
    for number, sandbox in enumerate((one, two)):
        await sandbox.files.write("/mnt/session/name", str(number), user="root")
        await sandbox.files.write("/opt/anthropic-managed-agents/name", str(number), user="root")
        await sandbox.commands.run(f"exec sleep 100{number}", background=True, timeout=0)
    for number, sandbox in enumerate((one, two)):
        shown = await sandbox.commands.run(
            "cat /mnt/session/name /opt/anthropic-managed-agents/name; ps -eo args"
        )
        assert shown.stdout.startswith(f"{number}{number}")
        assert f"sleep 100{number}" in shown.stdout
        assert f"sleep 100{1 - number}" not in shown.stdout


async def test_sandbox_does_not_see_the_host(e2b: E2B, control: E2BSimulatorClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    sandbox = await e2b.AsyncSandbox.create("base")
    root = (await control.sandbox(sandbox.sandbox_id)).root
    assert root is not None
    paths = [
        str(secret),
        str(root),
        str(Path(__file__)),
        str(Path.home() / ".ssh"),
        "/sys/kernel",
    ]
    for path in paths:
        assert not await sandbox.files.exists(path), path
    assert await sandbox.files.read("/etc/shadow", user="root") != Path("/etc/shadow").read_text()
    written = await sandbox.commands.run("touch /usr/x 2>&1 || echo refused", user="root")
    assert "refused" in written.stdout
    mounts = (await sandbox.commands.run("mount -t tmpfs none /mnt 2>&1 || echo refused", user="root")).stdout
    assert "refused" in mounts or os.geteuid() != 0


async def test_python3_is_in_usr_local_with_the_simulators_libraries_and_the_environment_is_clean(
    e2b: E2B, control: E2BSimulatorClient
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    program = "import sys, anthropic; print(sys.prefix, anthropic.__file__)"
    shown = await sandbox.commands.run(f"python3 -c '{program}'")
    library = f"/usr/local/lib/python3.{sys.version_info.minor}/site-packages"
    assert shown.stdout.split() == ["/usr/local", f"{library}/anthropic/__init__.py"]
    await sandbox.commands.run("exec sleep 1000", background=True, timeout=0)
    process = (await control.sandbox(sandbox.sandbox_id)).processes[0]
    environment = process.environment()
    assert "E2B_API_KEY" not in environment
    assert environment["E2B_SANDBOX_ID"] == sandbox.sandbox_id
    first = (await control.sandbox(sandbox.sandbox_id)).init_pid
    assert b"host-secret-key" not in Path(f"/proc/{first}/environ").read_bytes()


async def test_orphans_are_reaped_and_the_first_process_cannot_be_killed(
    e2b: E2B, until: Callable[..., Awaitable[None]]
) -> None:
    sandbox = await e2b.AsyncSandbox.create("base")
    await sandbox.commands.run("(sleep 0.01 &) ; kill -9 1; kill -9 -1; true", user="root")

    async def reaped() -> bool:
        shown = await sandbox.commands.run("ps -eo stat,args", user="root")
        assert "e2b-init" in shown.stdout
        return "defunct" not in shown.stdout

    await until(reaped)
