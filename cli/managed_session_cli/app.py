"""Builds the application `managed-sessions` from its own commands and those that other packages add."""

import sys
from importlib import metadata

import typer

from managed_session_cli import cluster_commands
from managed_session_cli.template_commands import template_app

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
app.add_typer(template_app, name="template")


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
