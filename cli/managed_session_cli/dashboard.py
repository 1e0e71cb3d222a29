"""`managed-sessions dashboard`: connects this machine to the dashboard, and says how to sign in."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import CommandError
from managed_session_cli.installation import DASHBOARD, Installation

VIEWER = f"{DASHBOARD}-viewer"
"""The ServiceAccount to sign in with."""

_PORT = 8000
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ")
_FIRST_DELAY_SECONDS = 0.5
_MAX_DELAY_SECONDS = 15.0


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Attributes:
        port: local port; 0 chooses a free one.
        open_browser: whether to open the page in the browser.
        kubeconfig: for kubectl; None is its own default.
        context: for kubectl; None is its own default.
    """

    port: int
    open_browser: bool
    kubeconfig: Path | None
    context: str | None


def dashboard(cluster: Cluster, installation: Installation, options: Options, console: Console) -> None:
    """Forward a local port to the dashboard until Ctrl-C. Connects again when its pod was replaced.

    Raises:
        CommandError: the dashboard is not installed, or kubectl is missing or cannot connect.
    """
    if cluster.get(installation.deployment(DASHBOARD)) is None:
        raise CommandError(
            f"the dashboard is not installed in the namespace {installation.system_namespace}. Install it "
            "with `managed-sessions install --image IMAGE --dashboard` or "
            "`kubectl apply -f deploy/dashboard/`."
        )
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise CommandError("kubectl is not on PATH. This command needs it to forward a port.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that kubectl ends with this process
    port, delay = options.port, _FIRST_DELAY_SECONDS
    try:
        while True:
            last = ""
            for line in _forwarded(_command(kubectl, installation, options, port)):
                last = line
                found = _FORWARDING.match(line)
                if found is None:
                    continue
                if port != int(found[1]) or delay == _FIRST_DELAY_SECONDS:
                    port = int(found[1])
                    _explain(installation, options, port, console)
                delay = _FIRST_DELAY_SECONDS * 2
            if delay == _FIRST_DELAY_SECONDS:
                raise CommandError(f"kubectl cannot forward a port to the dashboard: {last or 'it ended'}")
            console.print(f"  ! {last}; connecting again", markup=False)
            time.sleep(delay)
            delay = min(2 * delay, _MAX_DELAY_SECONDS)
    except KeyboardInterrupt:
        console.print("\nDisconnected.")


def _command(kubectl: str, installation: Installation, options: Options, port: int) -> list[str]:
    command = [kubectl, "port-forward", f"--namespace={installation.system_namespace}", "--address=127.0.0.1"]
    if options.kubeconfig is not None:
        command.append(f"--kubeconfig={options.kubeconfig}")
    if options.context is not None:
        command.append(f"--context={options.context}")
    return [*command, f"service/{DASHBOARD}", f"{port or ''}:{_PORT}"]


def _forwarded(command: list[str]) -> Iterator[str]:
    """Run kubectl, yield its lines, and end it with the iteration."""
    with subprocess.Popen(  # noqa: S603 - the user's own kubectl
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            if process.stdout is not None:
                yield from (line.strip() for line in process.stdout if line.strip())
        finally:
            process.terminate()


def _explain(installation: Installation, options: Options, port: int, console: Console) -> None:
    address = f"http://127.0.0.1:{port}/"
    where = installation.system_namespace
    console.print(f"[bold]Dashboard    {address}[/]\n")
    console.print(
        "Sign in with a token of the cluster that may list ManagedSessions. To get one for an hour:\n"
    )
    console.print(f"  kubectl create token {VIEWER} --namespace={where} --duration=1h\n", markup=False)
    console.print("Ctrl-C ends the connection.")
    if options.open_browser:
        webbrowser.open(address)
