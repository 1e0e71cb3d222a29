"""Crashes of a running sandbox's machine, which E2B's record does not show."""

from managed_session_devkit.simulators.e2b.sandbox import Sandbox


async def crash(sandbox: Sandbox) -> None:
    """End the machine of a running sandbox, and keep its record."""
    if sandbox.runtime is not None:
        await sandbox.runtime.process.kill()


def watch(sandbox: Sandbox) -> None:
    """Notice when the machine of a started sandbox ends. The record still says "running"."""
    runtime = sandbox.runtime
    assert runtime is not None
    process = runtime.process
    table_gone = process.on_gone

    def gone() -> None:
        table_gone()
        if sandbox.runtime is runtime and sandbox.state == "running":
            sandbox.crashed = True
            sandbox.drop_connections()

    process.on_gone = gone
