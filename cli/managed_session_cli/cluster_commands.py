"""Defines the commands that work on the cluster of the current kubeconfig: their options and help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from managed_session_cli.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_SYSTEM_NAMESPACE,
    Context,
    Kubeconfig,
    Namespace,
    SystemNamespace,
    Yes,
)

if TYPE_CHECKING:
    from managed_session_cli.cluster import Cluster
    from managed_session_cli.installation import Installation

PANEL = "On a cluster"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command, examples in _COMMANDS.items():
        lines = "\n\n".join(f"managed-sessions {example}" for example in examples)
        app.command(rich_help_panel=PANEL, epilog=f"Examples:\n\n{lines}")(command)


def install(
    image: Annotated[
        str, typer.Option(help="Image of the webhook and the operator: REGISTRY/NAME:TAG, as nodes pull it.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run all checks and list the changes without making them.")
    ] = False,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the pods are ready.")] = True,
    timeout: Annotated[float, typer.Option(help="How long to wait for the pods, in seconds.", min=1)] = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Install or upgrade managed-sessions on a cluster.

    Reads credentials from the environment variables ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_ENVIRONMENT_KEY and
    E2B_API_KEY, and optionally ANTHROPIC_API_KEY and ANTHROPIC_WEBHOOK_SIGNING_KEY. First checks the cluster
    and your permissions, and tries the credentials at Anthropic and E2B. Then shows the planned changes and
    asks for confirmation, builds the worker template if it does not exist, writes the Secrets, applies the
    manifests and waits for the pods.

    Run it again to upgrade, or to add or replace a credential. Only differences are applied: a credential
    that is not in the environment stays as it is in the cluster.
    """
    from managed_session_cli import install as command  # noqa: PLC0415 - quick --help

    options = command.Options(image, dry_run, yes, wait, timeout)
    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    command.install(cluster, installation, options, _console())


def uninstall(
    yes: Yes = False,
    keep_crd: Annotated[
        bool, typer.Option("--keep-crd", help="Keep the CRDs and the other cluster-wide objects.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="If no operator runs: kill the sandboxes from this machine and remove the finalizers.",
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="How long the whole removal may take, in seconds.", min=1)
    ] = 600,
    installation_id: Annotated[
        str | None,
        typer.Option(
            help="ID in the metadata of the sandboxes. Needed only if MANAGED_SESSIONS_INSTALLATION_ID was "
            "set and the operator's Deployment and ConfigMap are gone.",
            show_default=False,
        ),
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Remove an installation from a cluster.

    Remove the webhook endpoint in the Claude Console first. This command then deletes, in this order: the
    webhook; the ManagedSessions, waiting until the operator confirms that their sandboxes are gone; the
    operator; sandboxes that E2B still lists; and roles, Secrets and namespaces. The CRDs go last, unless
    another installation uses them.

    If the command is interrupted, run it again. If the operator is already gone and sessions are left, it
    stops and explains what to do.
    """
    from managed_session_cli import uninstall as command  # noqa: PLC0415 - quick --help

    options = command.Options(yes, keep_crd, force, timeout, installation_id)
    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    command.uninstall(cluster, installation, options, _console())


def logs(
    session: Annotated[
        str,
        typer.Argument(
            metavar="SESSION", help="ID of the session, or name of its ManagedSession.", show_default=False
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until Ctrl-C.")
    ] = False,
    wake: Annotated[
        bool, typer.Option("--wake", help="Resume a paused sandbox, read its log, and pause it again.")
    ] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print worker.log from a session's sandbox.

    If the sandbox is paused, resumes it only with --wake. Without --wake, prints what the ManagedSession
    records about the newest worker instead, and exits with code 1. The E2B key comes from E2B_API_KEY, or
    else from the operator's Secret if you may read it.
    """
    from managed_session_cli import logs as command  # noqa: PLC0415 - quick --help

    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    command.logs(cluster, installation, command.Options(session, follow, wake), _console())


def doctor(
    session: Annotated[
        str | None,
        typer.Argument(
            metavar="SESSION",
            help="Check only this session: its ID, or the name of its ManagedSession.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as a JSON list.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check every part of an installation and explain how to fix what is wrong.

    Changes nothing and wakes no sandbox. Checks that you have no permission for are skipped, and listed as
    such. Credentials come from the Secrets of the installation, or from the environment if you may not read
    those. Exits with code 1 if a check failed.
    """
    from managed_session_cli import doctor as command  # noqa: PLC0415 - quick --help

    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    if not command.doctor(cluster, installation, session, _console(), as_json=as_json):
        raise typer.Exit(1)


def smoke(
    second_turn: Annotated[
        bool,
        typer.Option(
            "--second-turn", help="Play a second turn, which reads a file that the first one wrote."
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the session at the end.")] = False,
    timeout: Annotated[float, typer.Option(help="How long to wait for each turn, in seconds.", min=1)] = 180,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run a smoke test against an installation and explain the step that fails.

    Creates a session in the environment that the installation serves, sends it a message, reports each step
    until the sandbox is paused, and deletes the session. Requires ANTHROPIC_API_KEY and ANTHROPIC_AGENT_ID
    from the environment's workspace. Exits with code 1 if a step is not reached.
    """
    from managed_session_cli import smoke as command  # noqa: PLC0415 - quick --help

    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    if not command.smoke(cluster, installation, command.Options(second_turn, keep, timeout), _console()):
        raise typer.Exit(1)


def _target(
    kubeconfig: Path | None, context: str | None, namespace: str, system_namespace: str
) -> tuple[Cluster, Installation]:
    from managed_session_cli.cluster import Cluster  # noqa: PLC0415 - quick --help
    from managed_session_cli.installation import Installation  # noqa: PLC0415

    return Cluster(kubeconfig, context), Installation(namespace, system_namespace)


def _console() -> Console:
    return Console(highlight=False, emoji=False, soft_wrap=True)


_COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    install: (
        "install --image registry.example.com/team/managed-sessions:0.1.0 --dry-run",
        "install --image registry.example.com/team/managed-sessions:0.1.0 --yes",
    ),
    uninstall: (
        "uninstall",
        "uninstall --yes --keep-crd",
        "uninstall --force",
    ),
    smoke: (
        "smoke",
        "smoke --second-turn --keep",
    ),
    logs: (
        "logs sesn_01AbCdEf",
        "logs sesn_01AbCdEf --follow",
        "logs sesn_01AbCdEf --wake",
    ),
    doctor: (
        "doctor",
        "doctor sesn_01AbCdEf",
        "doctor --json",
    ),
}
"""The commands with examples of their use."""
