"""Builds the application `managed-sessions` from its own commands and those that other packages add."""

import sys
from importlib import metadata

from managed_session_cli import cluster_commands, sandbox_commands, session_commands, snapshot_commands
from managed_session_cli.audit_commands import audit_app
from managed_session_cli.completion_command import completion
from managed_session_cli.plain_help import PROGRAM, PlainTyper, examples, register
from managed_session_cli.template_commands import template_app

COMMANDS = "managed_sessions.commands"
"""Entry points of this group are functions that receive the application and add commands to it."""

app = PlainTyper(name=PROGRAM, help="Run every Claude Managed Agents session in an E2B sandbox of its own.")


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
            add_to = entry_point.load()
        except ImportError as error:
            # The user's command may need none of them.
            print(f"warning: cannot load the commands of {entry_point.value}: {error}", file=sys.stderr)
        else:
            add_to(app)


register(app, session_commands.COMMANDS)
register(app, sandbox_commands.COMMANDS)
register(app, snapshot_commands.COMMANDS)
register(app, cluster_commands.COMMANDS)
app.add_typer(template_app, name="template", rich_help_panel=cluster_commands.INSTALLATION)
app.add_typer(audit_app, name="audit", rich_help_panel=cluster_commands.INSTALLATION)
_add_commands_of_other_packages()
app.command(epilog=examples(("completion bash",)))(completion)
app.command()(version)
