"""`managed-sessions template list` and `template prune`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import typer
from managed_session_worker.template.base import DOCKERFILE_SUFFIX, is_ours
from rich.console import Console

from managed_session_cli.clouds import E2BTeam, Sandbox
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import CommandError
from managed_session_cli.installation import Installation
from managed_session_cli.session_sandbox import e2b_key
from managed_session_cli.team_templates import TeamTemplates, Template
from managed_session_cli.template_references import ClusterReferences, cluster_references, used_by
from managed_session_cli.wording import counted

_SHOWN = 3
_HEADER = ["NAME", "TAGS", "BUILD", "AGE", "CPU", "MIB", "SANDBOXES", "OF THIS CLUSTER", "NAMED BY"]


@dataclass(frozen=True)
class Options:
    """The options of `prune`."""

    keep: int
    names: tuple[str, ...]
    dry_run: bool
    yes: bool


def list_templates(cluster: Cluster, installation: Installation, console: Console, *, every: bool) -> None:
    """Print the team's worker templates, or all of its templates."""
    key = e2b_key(cluster, installation)
    try:
        references = cluster_references(cluster)
    except CommandError as error:
        console.print(f"The cluster's references are not shown: {error}", style="yellow", markup=False)
        references = ClusterReferences((), frozenset())
    templates, sandboxes = asyncio.run(_inventory(key))
    shown = [each for each in templates if every or any(map(is_ours, each.names)) or references.to(each)]
    rows = [_HEADER, *(_row(each, sandboxes, references) for each in shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print("   ".join(cells).rstrip(), markup=False)


async def _inventory(key: str) -> tuple[list[Template], list[Sandbox]]:
    team = TeamTemplates(key)
    templates = [replace(each, tags=await team.tags(each)) for each in await team.all()]
    return templates, await E2BTeam(key).all_sandboxes()


def _row(template: Template, sandboxes: Sequence[Sandbox], references: ClusterReferences) -> list[str]:
    users = used_by(template, sandboxes)
    here = sum(each.sandbox_id in references.sandboxes for each in users)
    return [
        template.name,
        ",".join(template.tags) or "-",
        template.build_id[:8],
        _age(template.updated_at),
        str(template.cpu_count),
        str(template.memory_mb),
        str(len(users)),
        str(here),
        ", ".join(_shortened(references.to(template))) or "-",
    ]


def _age(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _shortened(names: Sequence[str]) -> list[str]:
    return [*names[:_SHOWN], *([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]


def kept_because(
    template: Template,
    templates: Sequence[Template],
    sandboxes: Sequence[Sandbox],
    references: ClusterReferences,
) -> str | None:
    """Return why a template must stay; None if nothing refers to it."""
    if users := used_by(template, sandboxes):
        paused = sum(each.paused for each in users)
        return f"{counted(len(users), 'sandbox', 'sandboxes')} of it, {paused} paused"
    if named := references.to(template):
        return f"named by {', '.join(_shortened(named))}"
    if not template.finished:
        return "a build is under way"
    for name in template.names:
        if name.endswith(DOCKERFILE_SUFFIX) and any(
            name.removesuffix(DOCKERFILE_SUFFIX) in each.names for each in templates
        ):
            return f"{name.removesuffix(DOCKERFILE_SUFFIX)} is built from it"
    return None


def prune(cluster: Cluster, installation: Installation, options: Options, console: Console) -> None:
    """Delete worker templates to which nothing refers, except the newest of these.

    Raises:
        CommandError: what refers to them cannot be read completely; nothing more is deleted then.
    """
    key = e2b_key(cluster, installation)
    team = TeamTemplates(key)
    sandboxes = asyncio.run(E2BTeam(key).all_sandboxes())
    references, templates = cluster_references(cluster), asyncio.run(team.all())
    unused: list[Template] = []
    for each in templates:
        if not any(is_ours(name) or name in options.names for name in each.names):
            continue
        if reason := kept_because(each, templates, sandboxes, references):
            console.print(f"Kept     {each.name}: {reason}", markup=False)
        else:
            unused.append(each)
    for each in unused[: options.keep]:
        console.print(f"Kept     {each.name}: one of the newest {options.keep} without users", markup=False)
    doomed = unused[options.keep :]
    for each in doomed:
        console.print(f"Delete   {each.name} ({each.template_id}, {_age(each.updated_at)} old)", markup=False)
    if options.dry_run or not doomed:
        console.print("Dry run: nothing was deleted." if options.dry_run else "Nothing to delete.")
        return
    if not options.yes and not typer.confirm("\nContinue?", default=False):
        raise CommandError("nothing was deleted")
    for each in doomed:
        _delete(cluster, key, each, console)


def _delete(cluster: Cluster, key: str, template: Template, console: Console) -> None:
    """Look once more what refers to a template, and delete it.

    E2B kills a sandbox at its next pause if its template is gone.
    """
    team = TeamTemplates(key)
    references, templates = cluster_references(cluster), asyncio.run(team.all())
    newest = next((each for each in templates if each.template_id == template.template_id), None)
    if newest is None:
        return
    sandboxes = asyncio.run(E2BTeam(key).all_sandboxes())
    if reason := kept_because(newest, templates, sandboxes, references):
        console.print(f"Kept     {template.name}: {reason}", markup=False)
    elif asyncio.run(team.delete(template)):
        console.print(f"Deleted  {template.name}", markup=False)
    else:
        console.print(f"Kept     {template.name}: E2B says that it is in use", markup=False)
