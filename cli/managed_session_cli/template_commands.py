"""Defines the commands `managed-sessions template …`: their options and help."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Annotated

import typer

from managed_session_cli.errors import TemplateError
from managed_session_cli.options import (
    DEFAULT_NAMESPACE,
    DEFAULT_SYSTEM_NAMESPACE,
    Context,
    Kubeconfig,
    Namespace,
    SystemNamespace,
    Yes,
)
from managed_session_cli.plain_help import PlainTyper, examples
from managed_session_cli.targets import stdout_console, target

REGISTRY = {"username": "REGISTRY_USERNAME", "password": "REGISTRY_PASSWORD"}
"""Environment variables with the credential of a private registry, which E2B gets."""

template_app = PlainTyper(help="Manage the E2B templates that sandboxes start from.")


def _epilog(lines: tuple[str, ...]) -> str:
    return examples(lines, "template")


@template_app.command(
    "build",
    epilog=_epilog(
        (
            "build",
            "build --from ubuntu:24.04 --package git --package jq --cpu 4 --memory-mb 4096",
            "build --from ./Dockerfile --name managed-session-worker-research",
            "build --from debian:bullseye --python-archive ./cpython-3.13-linux-gnu.tar.gz",
        )
    ),
)
def build(
    name: Annotated[
        str | None,
        typer.Option(help="NAME or NAME:TAG of the template. Default: managed-session-worker; with --from, "
                     "one that the base and the options give."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="BASE", show_default=False,
            help="Image, E2B template or Dockerfile to build from. image: or template: before it decides; "
            "otherwise a file is a Dockerfile, and a template goes before an image.",
        ),
    ] = None,
    cpu: Annotated[int | None, typer.Option(help="Virtual processors of each sandbox.", min=1)] = None,
    memory_mb: Annotated[int | None, typer.Option(help="Memory of each sandbox, in MiB.", min=128)] = None,
    package: Annotated[
        list[str] | None,
        typer.Option(help="Install a package with the image's package manager. May be repeated."),
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="Run a command as root during the build. May be repeated.")
    ] = None,
    python_archive: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL#sha256=HEX",
            help="Archive with a relocatable Python 3.11 to 3.14 for the worker, instead of the image's.",
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build even if the name exists, without E2B's cache.")
    ] = False,
) -> None:  # fmt: skip
    """Build a worker template in E2B and tag it. Requires E2B_API_KEY.

    Without --from: the standard template, from Debian with Python 3.12. With --from: the worker on a base of
    your own. The worker takes the base's Python if it is 3.11 to 3.14 with pip, or else the distribution's,
    or else one that the command fetches. A sandbox of the new template is checked before the template gets
    its tag. The same base and options give the same name, which is then not built again.

    A private registry's user and password come from REGISTRY_USERNAME and REGISTRY_PASSWORD.
    """
    if not os.environ.get("E2B_API_KEY"):
        raise TemplateError("E2B_API_KEY is not set. Create a key at https://e2b.dev/dashboard?tab=keys.")
    own = {"--package": package, "--run": run, "--python-archive": python_archive}
    if source is None and any(own.values()):
        given = ", ".join(option for option, value in own.items() if value)
        raise TemplateError(f"{given}: only with --from. The standard template is built from python:3.12.")
    from managed_session_cli import worker_template as command  # noqa: PLC0415 - takes a second

    size = command.Size(cpu, memory_mb)
    if source is None:
        print(asyncio.run(command.build_with_log(name, size, _log())))
        return
    registry = {key: os.environ.get(variable, "") for key, variable in REGISTRY.items()}
    request = command.custom_request(
        source, name, size, tuple(package or ()), tuple(run or ()), python_archive, rebuild=rebuild,
        registry=registry if all(registry.values()) else None,
    )  # fmt: skip
    for line in asyncio.run(command.build_custom(request, _log())):
        print(line)


def _log() -> Callable[[str], None]:
    from rich.console import Console  # noqa: PLC0415 - quick --help

    console = Console(stderr=True, emoji=False)

    def log(line: str) -> None:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    return log


@template_app.command("list", epilog=_epilog(("list", "list --all")))
def list_command(
    every: Annotated[
        bool, typer.Option("--all", help="List all templates of the team, not only worker templates.")
    ] = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List the E2B team's worker templates, and what refers to them.

    Sandboxes are counted over the whole team, running and paused. Settings, classes and sessions are those of
    the cluster. The E2B key comes from E2B_API_KEY, or else from the operator's Secret if you may read it.
    """
    from managed_session_cli.template_prune import list_templates  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    list_templates(cluster, installation, stdout_console(), every=every)


@template_app.command("prune", epilog=_epilog(("prune --dry-run", "prune --keep 1 --yes")))
def prune_command(
    keep: Annotated[
        int, typer.Option(help="How many of the newest templates without users to keep.", min=0)
    ] = 2,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Also consider the template of this NAME, besides managed-session-worker….",
                     show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted.")] = False,
    yes: Yes = False,
    namespace: Namespace = DEFAULT_NAMESPACE,
    system_namespace: SystemNamespace = DEFAULT_SYSTEM_NAMESPACE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:  # fmt: skip
    """Delete worker templates to which nothing refers.

    Keeps every template that a sandbox of the E2B team was created from, running or paused and of any
    installation, and every one that a setting, class or session of this cluster names. Looks again before
    each deletion, because E2B kills a sandbox without a template at its next pause. Stops if E2B's or the
    cluster's list cannot be read to its end.

    Other clusters that share the team are known by their sandboxes only: delete with care if they have
    classes without sandboxes.
    """
    from managed_session_cli import template_prune as command  # noqa: PLC0415 - quick --help

    cluster, installation = target(kubeconfig, context, namespace, system_namespace)
    options = command.Options(keep, tuple(name or ()), dry_run, yes)
    command.prune(cluster, installation, options, stdout_console())
