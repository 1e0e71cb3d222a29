"""Defines the commands that show sessions, and that ask something of them: their options and help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from managed_session_cli.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_SYSTEM_NAMESPACE,
    Context,
    Kubeconfig,
    Namespace,
    Session,
    Sessions,
    SystemNamespace,
    Wait,
    WaitSeconds,
)
from managed_session_cli.plain_help import Commands
from managed_session_cli.session_names import session_names
from managed_session_cli.targets import stdout_console, target

if TYPE_CHECKING:
    from managed_session_cli.session_tables import Selection

LOOK = "See what sessions do"
CHANGE = "Change sessions"

Labels = Annotated[
    str,
    typer.Option("--selector", "-l", metavar="SELECTOR", help="Labels, as KEY=VALUE,…", show_default=False),
]
Fields = Annotated[
    str,
    typer.Option(
        metavar="SELECTOR",
        help="Fields, as FIELD=VALUE,…: phase, class, session, sandbox, or a field's full name.",
        show_default=False,
    ),
]
Phases = Annotated[
    str,
    typer.Option(
        "--phase", metavar="PHASES", help="Only sessions in these phases: Running,Idle,…", show_default=False
    ),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Sessions of all namespaces.")]


def get(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SESSION]...",
            help="Names, IDs or unique beginnings of either. All sessions without any.",
            show_default=False,
            autocompletion=session_names,
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help="table, wide, name, json or yaml.",
            autocompletion=lambda: ["table", "wide", "name", "json", "yaml"],
        ),
    ] = "table",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on with each change, until Ctrl-C.")
    ] = False,
    selector: Labels = "",
    field_selector: Fields = "",
    phase: Phases = "",
    all_namespaces: AllNamespaces = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List sessions, or show some of them.

    The columns are those of `kubectl get managedsessions`.
    """
    from managed_session_cli import get as command  # noqa: PLC0415 - quick --help
    from managed_session_cli.errors import CommandError  # noqa: PLC0415

    forms = {each.value: each for each in command.Output}
    if output not in forms:
        raise CommandError(f"--output={output} is not a format: use one of {', '.join(forms)}.")
    selection = _selection("" if all_namespaces else namespace, selector, field_selector)
    options = command.Options(tuple(names or ()), forms[output], watch, selection, _phases(phase))
    command.get(target(kubeconfig, context, namespace)[0], options)


def top(
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", help="Seconds between two looks, on a terminal.", min=0.5)
    ] = 2,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help="table or json.",
            autocompletion=lambda: ["table", "json"],
        ),
    ] = "table",
    selector: Labels = "",
    field_selector: Fields = "",
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Watch the sessions that run, wait or fail, and the use of the slots.

    Refreshes on a terminal until Ctrl-C; elsewhere, prints one table. FOR is how long the session has been in
    its state, and WAITED how long its newest work waited for a worker. Without the right to read the
    operator's settings, the number of slots is left out.
    """
    from managed_session_cli import top as command  # noqa: PLC0415 - quick --help
    from managed_session_cli.errors import CommandError  # noqa: PLC0415

    if output not in ("table", "json"):
        raise CommandError(f"--output={output} is not a format: use table or json.")
    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    selection = _selection(namespace, selector, field_selector)
    options = command.Options(selection, interval, once, output == "json")
    command.top(cluster, installation, options, stdout_console())


def describe(
    session: Session,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Say how a session is, what its newest turn waited for, and what to do.

    Sums up the resource, its Events, the newest worker's exit record, and Anthropic's events. What you may
    not read is named at the end: Anthropic's events need ANTHROPIC_API_KEY, and the exit record a sandbox
    that runs. No content of the session is shown.
    """
    from managed_session_cli import timeline as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.describe(cluster, installation, session, stdout_console())


def timeline(
    session: Session,
    turns: Annotated[int, typer.Option(help="How many turns to show; 0 shows all that is known.", min=0)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what happened to a session, turn by turn, and how long each part took.

    Merges the same sources as `describe`, in the order of time. A bar shows when in the turn something was:
    yellow for a wait, green for work, red for a problem.
    """
    from managed_session_cli import timeline as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.timeline(cluster, installation, session, turns, stdout_console(), as_json=as_json)


def pause(
    sessions: Sessions,
    wait: Wait = True,
    timeout: WaitSeconds = 120,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Stop serving sessions, and pause their sandboxes.

    Sets `spec.lifecycle.suspend`. A worker that runs is stopped; files and messages are kept. The messages
    are served once the session is resumed.
    """
    from managed_session_cli import session_requests as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.pause(cluster, installation, command.Options(sessions, wait, timeout))


def resume(
    sessions: Sessions,
    wait: Wait = True,
    timeout: WaitSeconds = 120,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Serve sessions again that were paused.

    Removes `spec.lifecycle.suspend`. The sandbox is resumed by the session's next work.
    """
    from managed_session_cli import session_requests as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.resume(cluster, installation, command.Options(sessions, wait, timeout))


def retry(
    sessions: Sessions,
    wait: Wait = True,
    timeout: WaitSeconds = 180,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Try sessions again at once that failed or are stuck.

    Sets `spec.requests.retry`. The operator then tries a failed step again without waiting for its time, and
    counts the recoveries of a stuck session from zero. It sends no message again. Exits with code 1 if a
    session still cannot be served, and says why.
    """
    from managed_session_cli import session_requests as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    command.retry(cluster, installation, command.Options(sessions, wait, timeout))


def _selection(namespace: str, labels: str, fields: str) -> Selection:
    from managed_session_cli.session_tables import Selection  # noqa: PLC0415 - quick --help

    return Selection(namespace, labels, fields)


def _phases(given: str) -> frozenset[str]:
    return frozenset(each.strip().lower() for each in given.split(",") if each.strip())


COMMANDS: Commands = {
    get: (
        LOOK,
        (
            "get",
            "get sesn_01AbCdEf --output wide",
            "get --phase Running,Provisioning --watch",
            "get --field-selector class=research --output name",
        ),
    ),
    top: (LOOK, ("top", "top --field-selector class=research", "top --output json")),
    describe: (LOOK, ("describe sesn_01AbCdEf",)),
    timeline: (LOOK, ("timeline sesn_01AbCdEf", "timeline sesn_01AbCdEf --turns 1 --json")),
    pause: (CHANGE, ("pause sesn_01AbCdEf", "pause sesn_01AbCdEf sesn_01GhIjKl --no-wait")),
    resume: (CHANGE, ("resume sesn_01AbCdEf",)),
    retry: (CHANGE, ("retry sesn_01AbCdEf", "retry sesn_01AbCdEf --timeout 600")),
}
"""The commands, each with its topic and with examples of its use."""
