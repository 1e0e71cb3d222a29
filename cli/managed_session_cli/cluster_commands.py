"""Defines the commands that work on the cluster of the current kubeconfig: their options and help."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from managed_session_cli.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_SYSTEM_NAMESPACE,
    Context,
    CostBy,
    CostOutput,
    Kubeconfig,
    Namespace,
    SystemNamespace,
    Yes,
)
from managed_session_cli.plain_help import Commands
from managed_session_cli.session_commands import LOOK
from managed_session_cli.session_names import session_names
from managed_session_cli.targets import stdout_console, target

INSTALLATION = "Install and support"


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
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Install the dashboard too. An upgrade keeps it.")
    ] = False,
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

    options = command.Options(image, dry_run, yes, wait, timeout, dashboard)
    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.install(cluster, installation, options, stdout_console())


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
    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.uninstall(cluster, installation, options, stdout_console())


def doctor(
    session: Annotated[
        str | None,
        typer.Argument(
            metavar="SESSION",
            help="Check only this session: its ID, name, or a unique beginning of either.",
            show_default=False,
            autocompletion=session_names,
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

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    if not command.doctor(cluster, installation, session, stdout_console(), as_json=as_json):
        raise typer.Exit(1)


def cost(
    by: Annotated[CostBy, typer.Option("--by", help="What each row stands for.")] = CostBy.AGENT,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DAYS|DATE",
            help="Only what was recorded since then (UTC): 7d for today and the six days before, or a date.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        CostOutput, typer.Option("--output", "-o", help="Form of the report.")
    ] = CostOutput.TABLE,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what sessions have cost, by agent, class, session or day.

    Adds up `status.cost` of the ManagedSessions that exist: Anthropic's list cost, the running time of
    sandboxes, and their estimated cost if the operator has a price. Deleted sessions and turns that run now
    are not in it. Amounts in JSON and YAML are cents.
    """
    from managed_session_cli import cost as command  # noqa: PLC0415 - quick --help

    today = datetime.now(UTC).date()
    first = command.parse_since(since, today) if since is not None else None
    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.cost(cluster, installation, command.Options(by, first, output), stdout_console())


def bundle(
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="The archive. Default: a name with the time, here.", show_default=False
        ),
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Write an archive for support, without secrets.

    It has resources, classes, Events, Deployments, pods, the Lease, settings, the pods' logs and metrics, the
    checks of `doctor` and all versions. Of objects, only fields that are known to be harmless keep their
    text. Values of Secrets, annotations, labels and variables, and whatever looks like a credential, are
    removed from everything else too. What you may not read is left out, and named in missing.txt.
    """
    from managed_session_cli import bundle as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.bundle(cluster, installation, file, stdout_console())


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

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    if not command.smoke(
        cluster, installation, command.Options(second_turn, keep, timeout), stdout_console()
    ):
        raise typer.Exit(1)


def dashboard(
    port: Annotated[
        int, typer.Option(help="Local port; 0 chooses a free one.", min=0, max=65535, show_default=False)
    ] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in your browser.")
    ] = True,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Open the dashboard, a read-only web page about the sessions.

    Forwards a local port to the dashboard's pod with kubectl until Ctrl-C, and prints the address and how to
    get a token to sign in with. Connects again when the pod was replaced. The dashboard is an optional part
    of an installation: `managed-sessions install --dashboard`.
    """
    from managed_session_cli import dashboard as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    options = command.Options(port, open_browser, kubeconfig, context)
    command.dashboard(cluster, installation, options, stdout_console())


COMMANDS: Commands = {
    dashboard: (LOOK, ("dashboard", "dashboard --port 8000 --no-open")),
    cost: (LOOK, ("cost", "cost --by day --since 7d", "cost --by session --output json")),
    install: (
        INSTALLATION,
        (
            "install --image registry.example.com/team/managed-sessions:0.1.0 --dry-run",
            "install --image registry.example.com/team/managed-sessions:0.1.0 --yes",
        ),
    ),
    uninstall: (
        INSTALLATION,
        (
            "uninstall",
            "uninstall --yes --keep-crd",
            "uninstall --force",
        ),
    ),
    doctor: (
        INSTALLATION,
        (
            "doctor",
            "doctor sesn_01AbCdEf",
            "doctor --json",
        ),
    ),
    bundle: (INSTALLATION, ("bundle", "bundle --file support.tar.gz")),
    smoke: (
        INSTALLATION,
        (
            "smoke",
            "smoke --second-turn --keep",
        ),
    ),
}
"""The commands, each with its topic and with examples of its use."""
