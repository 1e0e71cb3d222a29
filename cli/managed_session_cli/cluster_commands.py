"""The commands that work on the cluster of the current kubeconfig: their options and help."""

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
    image: Annotated[str, typer.Option(help="Image of webhook and operator, as the nodes pull it.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list what would change; change nothing.")
    ] = False,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the pods are ready.")] = True,
    timeout: Annotated[float, typer.Option(help="How long to wait for the pods, in seconds.", min=1)] = 300,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Install or upgrade on the cluster of the current kubeconfig.

    Checks first: the cluster, your rights, and the keys in the environment variables
    ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_ENVIRONMENT_KEY and E2B_API_KEY (optional: ANTHROPIC_API_KEY,
    ANTHROPIC_WEBHOOK_SIGNING_KEY), which are tried at Anthropic and E2B. Then it says what it will do,
    builds the worker template where it is absent, writes the Secrets, applies the manifests and waits.

    Run it again to upgrade, or to add or replace a key: only what differs is changed, and a key that is not
    in the environment is kept as it is in the cluster.
    """
    from managed_session_cli import install as command  # noqa: PLC0415 - quick --help

    wishes = command.Wishes(image, dry_run, yes, wait, timeout)
    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    command.install(cluster, installation, wishes, _console())


def uninstall(
    yes: Yes = False,
    keep_crd: Annotated[
        bool, typer.Option("--keep-crd", help="Keep the resource's definition and what else is cluster-wide.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Where the operator is gone: kill the sandboxes from here, drop the finalizers."
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Patience with the whole removal, in seconds.", min=1)] = 600,
    installation_id: Annotated[
        str | None,
        typer.Option(
            help="What marks the sandboxes, if MANAGED_SESSIONS_INSTALLATION_ID was set and the operator's "
            "Deployment is gone.",
            show_default=False,
        ),
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Remove an installation from the cluster of the current kubeconfig.

    First remove the webhook endpoint in the Claude Console. Then, in this order: the webhook, the
    ManagedSessions (the operator confirms that each sandbox is gone), a last look at E2B, the operator,
    roles, Secrets and namespaces, and the resource's definition unless another installation uses it. It can
    be repeated after it was broken off. Where the operator is gone already it says what to do.
    """
    from managed_session_cli import uninstall as command  # noqa: PLC0415 - quick --help

    wishes = command.Wishes(yes, keep_crd, force, timeout, installation_id)
    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    command.uninstall(cluster, installation, wishes, _console())


def logs(
    session: Annotated[
        str,
        typer.Argument(
            metavar="SESSION", help="The session's ID, or the resource's name.", show_default=False
        ),
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is added, until Ctrl-C.")
    ] = False,
    wake: Annotated[
        bool, typer.Option("--wake", help="Resume a paused sandbox to read its log, and pause it again.")
    ] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print worker.log of a session's sandbox.

    A paused sandbox is not woken unless asked for: then this says what the resource knows about the newest
    worker, and ends with exit code 1. The E2B key is E2B_API_KEY, or else that of the cluster's Secret if you
    may read it.
    """
    from managed_session_cli import logs as command  # noqa: PLC0415 - quick --help

    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    command.logs(cluster, installation, command.Wishes(session, follow, wake), _console())


def doctor(
    session: Annotated[
        str | None,
        typer.Argument(
            metavar="SESSION", help="Look at this session alone, by its ID or name.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of the checks.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Look at every part of an installation and say what to do about what is wrong.

    Changes nothing and wakes no sandbox. What you may not look at is skipped and says so. The keys are those
    of the cluster's Secrets, or of the environment where you may not read them. The exit code is 1 if a check
    failed.
    """
    from managed_session_cli import doctor as command  # noqa: PLC0415 - quick --help

    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    if not command.doctor(cluster, installation, session, _console(), as_json=as_json):
        raise typer.Exit(1)


def smoke(
    second_turn: Annotated[
        bool, typer.Option("--second-turn", help="Also check that a second turn finds the first one's file.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Do not delete the session in the end.")] = False,
    timeout: Annotated[float, typer.Option(help="Patience with one turn, in seconds.", min=1)] = 180,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Play the guide's smoke test against an installation, and explain the step that fails.

    Creates a session of the environment that the installation serves, sends it a message and shows each step
    until the sandbox is paused. Needs ANTHROPIC_API_KEY and ANTHROPIC_AGENT_ID of the environment's
    workspace. The session is deleted in the end. The exit code is 1 if a step was not reached.
    """
    from managed_session_cli import smoke as command  # noqa: PLC0415 - quick --help

    cluster, installation = _target(kubeconfig, context, namespace, system_namespace)
    if not command.smoke(cluster, installation, command.Wishes(second_turn, keep, timeout), _console()):
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
