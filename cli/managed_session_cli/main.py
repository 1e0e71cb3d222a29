"""The command line `managed-sessions`: its commands and how it ends."""

import asyncio
import os
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console

from managed_session_cli import cluster_commands

app = typer.Typer(
    name="managed-sessions",
    help="Every Claude Managed Agents session its own E2B sandbox.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
template_app = typer.Typer(help="The E2B template that the sandboxes start from.", no_args_is_help=True)
app.add_typer(template_app, name="template")
cluster_commands.register(app)


@app.callback()
def _managed_sessions() -> None:
    """Every Claude Managed Agents session its own E2B sandbox."""


@app.command()
def demo() -> None:
    """Show the whole system at work, on this machine and without accounts.

    Starts a Kubernetes control plane, simulators of Anthropic and E2B, the webhook and the operator, plays
    the guide's smoke test with them, checks what can be seen from outside, and removes everything again.
    """
    from managed_session_local.control_plane import resolve_binaries  # noqa: PLC0415 - quick --help
    from managed_session_local.demo import run_demo  # noqa: PLC0415
    from managed_session_local.foreground import run_in_foreground  # noqa: PLC0415

    binaries = resolve_binaries(console=Console(stderr=True, emoji=False))
    if not run_in_foreground(run_demo(binaries, Console(highlight=False, emoji=False))):
        raise typer.Exit(1)


@app.command()
def local(
    simulate: Annotated[
        bool | None,
        typer.Option(
            "--simulate/--no-simulate",
            help="Simulate Anthropic and E2B, or use the real ones. Without this option: the real ones if "
            "ANTHROPIC_ENVIRONMENT_ID or ANTHROPIC_ENVIRONMENT_KEY is set; they need both, and E2B_API_KEY.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when all is ready; progress to stderr.")
    ] = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C.

    The worker template is built where it is absent. ANTHROPIC_BASE_URL, E2B_API_URL, E2B_SANDBOX_URL and
    E2B_DOMAIN lead to other clouds than the usual ones; MANAGED_SESSIONS_… variables are settings of the
    webhook and the operator, but for namespaces, ports of probes, credentials and the installation ID, which
    are this command's own. Ctrl-C or SIGTERM deletes all sessions' resources and kills their sandboxes.
    """
    from managed_session_local.control_plane import resolve_binaries  # noqa: PLC0415 - quick --help
    from managed_session_local.foreground import StoppedBySignal, run_in_foreground  # noqa: PLC0415
    from managed_session_local.local_command import run_local  # noqa: PLC0415

    console = Console(stderr=True, emoji=False)
    binaries = resolve_binaries(console=console)
    try:
        run_in_foreground(run_local(binaries, simulate=simulate, as_json=as_json, console=console))
    except StoppedBySignal:
        raise typer.Exit(0) from None


@template_app.command("build")
def template_build(
    name: Annotated[
        str | None, typer.Option(help="NAME:TAG of the template; by default managed-session-worker:VERSION.")
    ] = None,
) -> None:
    """Build the worker template in E2B and tag it; needs E2B_API_KEY."""
    from managed_session_local.errors import TemplateError  # noqa: PLC0415 - quick --help

    if not os.environ.get("E2B_API_KEY"):
        raise TemplateError(
            "E2B_API_KEY is not set: take a key from E2B's dashboard, https://e2b.dev/dashboard?tab=keys"
        )
    from managed_session_local.worker_template import build_with_log  # noqa: PLC0415 - takes a second

    console = Console(stderr=True, emoji=False)

    def log(line: str) -> None:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    print(asyncio.run(build_with_log(name, log)))


@app.command()
def version() -> None:
    """Print the version."""
    print(_version())


def _version() -> str:
    try:
        return metadata.version("managed-sessions")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def main() -> None:
    """Run the command line: what fails is one line that says what to do, and an exit code above 0."""
    from managed_session_local.clouds import proxy_bypass  # noqa: PLC0415 - quick --help
    from managed_session_local.errors import EXPECTED  # noqa: PLC0415

    from managed_session_cli.errors import CommandError  # noqa: PLC0415

    os.environ.update(proxy_bypass(os.environ))
    try:
        app()
    except (*EXPECTED, CommandError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    # The threads of E2B's SDK may abort the process while the interpreter shuts down.
    os._exit(code)


if __name__ == "__main__":
    main()
