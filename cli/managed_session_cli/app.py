"""Builds the application `managed-sessions` from its own commands and those that other packages add."""

import asyncio
import os
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.console import Console

from managed_session_cli import cluster_commands
from managed_session_cli.errors import TemplateError

COMMANDS = "managed_sessions.commands"
"""Entry points of this group are functions that receive the application and add commands to it."""

app = typer.Typer(
    name="managed-sessions",
    help="Run every Claude Managed Agents session in an E2B sandbox of its own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
template_app = typer.Typer(help="Manage the E2B template that sandboxes start from.", no_args_is_help=True)
app.add_typer(template_app, name="template")


@template_app.command("build")
def template_build(
    name: Annotated[
        str | None, typer.Option(help="NAME:TAG of the template. Default: managed-session-worker:VERSION.")
    ] = None,
) -> None:
    """Build the worker template in E2B and tag it. Requires E2B_API_KEY."""
    if not os.environ.get("E2B_API_KEY"):
        raise TemplateError("E2B_API_KEY is not set. Create a key at https://e2b.dev/dashboard?tab=keys.")
    from managed_session_cli.worker_template import build_with_log  # noqa: PLC0415 - takes a second

    console = Console(stderr=True, emoji=False)

    def log(line: str) -> None:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    print(asyncio.run(build_with_log(name, log)))


def version() -> None:
    """Print the version."""
    print(_version())


def _version() -> str:
    try:
        return metadata.version("managed-sessions")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _add_commands_of_other_packages() -> None:
    for entry_point in sorted(metadata.entry_points(group=COMMANDS)):
        try:
            register = entry_point.load()
        except ImportError as error:
            # The user's command may need none of them.
            print(f"warning: cannot load the commands of {entry_point.value}: {error}", file=sys.stderr)
        else:
            register(app)


cluster_commands.register(app)
_add_commands_of_other_packages()
app.command()(version)
