"""The commands `demo` and `local`, which the devkit adds to `managed-sessions`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from managed_session_cli.errors import CommandError

PANEL = "On this machine, from a source checkout"


def register(app: typer.Typer) -> None:
    """Add the commands to the application (entry point of the group `managed_sessions.commands`)."""
    for command in (demo, local):
        app.command(rich_help_panel=PANEL)(command)


def demo() -> None:
    """Play a demo of the whole system on this machine. You need no account.

    Starts a Kubernetes control plane, simulators of Anthropic and E2B, the webhook and the operator. Plays
    the smoke test of E2B's guide, a session with a class, and one with a repository, a secret and an output.
    Checks the results from outside, and removes everything again.
    """
    from rich.console import Console  # noqa: PLC0415

    from managed_session_devkit.control_plane import resolve_binaries  # noqa: PLC0415 - quick --help
    from managed_session_devkit.demo.demo import run_demo  # noqa: PLC0415
    from managed_session_devkit.foreground import run_in_foreground  # noqa: PLC0415

    with _expected_errors_on_one_line():
        binaries = resolve_binaries(console=Console(stderr=True, emoji=False))
        if not run_in_foreground(run_demo(binaries, Console(highlight=False, emoji=False))):
            raise typer.Exit(1)


def local(
    simulate: Annotated[
        bool | None,
        typer.Option(
            "--simulate/--no-simulate",
            help="Simulate Anthropic and E2B, or use the real ones. Default: simulate, unless "
            "ANTHROPIC_ENVIRONMENT_ID or ANTHROPIC_ENVIRONMENT_KEY is set. The real ones need both of "
            "these, and E2B_API_KEY.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON when the system is ready; progress on stderr."),
    ] = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C.

    Builds the worker template if it does not exist. ANTHROPIC_BASE_URL, E2B_API_URL, E2B_SANDBOX_URL and
    E2B_DOMAIN change the addresses of the clouds. MANAGED_SESSIONS_… variables are settings of the webhook
    and the operator; this command chooses the namespaces, probe ports, credentials and installation ID
    itself. Ctrl-C or SIGTERM deletes the resources of all sessions and kills their sandboxes.
    """
    from rich.console import Console  # noqa: PLC0415 - quick --help

    from managed_session_devkit.control_plane import resolve_binaries  # noqa: PLC0415 - quick --help
    from managed_session_devkit.foreground import StoppedBySignal, run_in_foreground  # noqa: PLC0415
    from managed_session_devkit.system.local_command import run_local  # noqa: PLC0415

    console = Console(stderr=True, emoji=False)
    with _expected_errors_on_one_line():
        binaries = resolve_binaries(console=console)
        try:
            run_in_foreground(run_local(binaries, simulate=simulate, as_json=as_json, console=console))
        except StoppedBySignal:
            raise typer.Exit(0) from None


@contextmanager
def _expected_errors_on_one_line() -> Iterator[None]:
    """Raise the devkit's expected errors as errors of the command line, which prints one line."""
    from managed_session_devkit.control_plane import (  # noqa: PLC0415 - quick --help
        BinariesUnavailableError,
        KubectlError,
        ProcessFailedError,
    )
    from managed_session_devkit.foreground import StoppedBySignal  # noqa: PLC0415
    from managed_session_devkit.system.clouds import CloudsError  # noqa: PLC0415

    expected = (BinariesUnavailableError, CloudsError, KubectlError, ProcessFailedError, StoppedBySignal)
    try:
        yield
    except expected as error:
        raise CommandError(str(error)) from error
