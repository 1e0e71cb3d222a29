"""Runs a control plane in the foreground, or only prepares its binaries (`binaries`)."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from managed_session_devkit.control_plane.binaries import ControlPlaneBinaries, resolve_binaries
from managed_session_devkit.control_plane.control_plane import ControlPlane
from managed_session_devkit.control_plane.errors import BinariesUnavailableError, ProcessFailedError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    audit_log: Annotated[Path | None, typer.Option(help="File for the API server's audit log.")] = None,
) -> None:
    """Run a local Kubernetes control plane until Ctrl-C or SIGTERM. Print KUBECONFIG when it is ready."""
    if context.invoked_subcommand is not None:
        return
    binaries = _binaries()
    try:
        asyncio.run(_serve(binaries, audit_log))
    except ProcessFailedError as error:
        sys.exit(f"error: {error}")


@app.command()
def binaries() -> None:
    """Only find or prepare kube-apiserver, etcd and kubectl, and print their folder."""
    print(_binaries().folder)


def _binaries() -> ControlPlaneBinaries:
    try:
        return resolve_binaries()
    except BinariesUnavailableError as error:
        sys.exit(f"error: {error}")


async def _serve(binaries: ControlPlaneBinaries, audit_log: Path | None) -> None:
    serving = asyncio.current_task()
    assert serving is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        async with ControlPlane(binaries, audit_log=audit_log) as control_plane:
            print(f"KUBECONFIG={control_plane.kubeconfig}", flush=True)
            raise await control_plane.failure()
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    app()
