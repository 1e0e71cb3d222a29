"""`managed-sessions timeline` and `describe`: the story of a session."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from managed_session_api.resource import ManagedSession
from rich.console import Console
from rich.table import Table
from rich.text import Text

from managed_session_cli import story
from managed_session_cli.cluster import Cluster
from managed_session_cli.installation import Installation
from managed_session_cli.sessions import find_session, ready_condition, remedy
from managed_session_cli.story import Kind, Moment, Turn
from managed_session_cli.story_sources import Story, read_story
from managed_session_cli.wording import ago, counted, duration

_BAR = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_FILE_WIDTH = 200
_STYLES = {Kind.WAIT: "yellow", Kind.WORK: "green", Kind.NOTE: "dim"}
_RECENT_EVENTS = 12


def timeline(
    cluster: Cluster,
    installation: Installation,
    session: str,
    newest: int,
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Print what happened to the session, turn by turn.

    Args:
        cluster: the cluster.
        installation: its namespaces.
        session: its name, ID, or a unique beginning of either.
        newest: how many turns to print; 0 for all.
        console: where to print.
        as_json: whether to print a JSON object instead.

    Raises:
        CommandError: there is no such session.
    """
    told = read_story(cluster, installation, find_session(cluster, installation.namespace, session))
    parts = story.turns(told.moments)
    shown = parts[-newest:] if newest else parts
    if as_json:
        found = {
            "session": told.session.spec.session_id,
            "turns": [[each.to_json() for each in turn.moments] for turn in shown],
            "missing": told.missing,
        }
        print(json.dumps(found, indent=2))
        return
    _widen(console)
    if earlier := len(parts) - len(shown):
        console.print(f"{counted(earlier, 'earlier turn')} left out (--turns 0 prints all).\n", style="dim")
    for turn in shown:
        _print_turn(turn, console)
    _print_missing(told, console)


def describe(cluster: Cluster, installation: Installation, session: str, console: Console) -> None:
    """Print how the session is now, what it has waited for, and what to do (raises as `timeline`)."""
    told = read_story(cluster, installation, find_session(cluster, installation.namespace, session))
    now = datetime.now(UTC)
    _widen(console)
    console.print(_facts(told.session, now))
    _print_waits(told, console)
    _print_conditions(told.session, now, console)
    _print_events(told, now, console)
    _print_missing(told, console)


def _widen(console: Console) -> None:
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)


def _grid(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=bool(columns), header_style="bold")
    for each in columns:
        table.add_column(each)
    return table


def _print_turn(turn: Turn, console: Console) -> None:
    length = (turn.ended - turn.began).total_seconds()
    console.print(f"{turn.began:%Y-%m-%d %H:%M:%S} UTC, for {duration(length)}", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("right", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_column(overflow="fold")
    for each in turn.moments:
        offset = (each.at - turn.began).total_seconds()
        lasted = each.seconds
        table.add_row(
            f"+{duration(offset)}",
            Text(bar(offset, lasted, length), style="red" if each.bad else _STYLES[each.kind]),
            duration(lasted) + ("…" if each.open else "") if lasted is not None else "",
            Text(each.source, style="dim"),
            Text(each.text, style="red" if each.bad else ""),
        )
    console.print(table, soft_wrap=False)
    console.print()


def bar(offset: float, lasted: float | None, length: float) -> str:
    """Return a bar of constant width that shows when in a turn something was, and for how long."""
    scale = _BAR / length if length > 0 else 0.0
    start = min(int(offset * scale), _BAR - 1)
    if lasted is None:
        return (" " * start + "·").ljust(_BAR)
    eighths = max(1, round(lasted * scale * 8))
    whole, part = divmod(min(eighths, (_BAR - start) * 8), 8)
    drawn = " " * start + "█" * whole + (_EIGHTHS[part] if part else "")
    return drawn[:_BAR].ljust(_BAR)


def _facts(session: ManagedSession, now: datetime) -> Table:
    status, ready, reason, message = session.status, *ready_condition(session)
    sandbox, work = status.sandbox, status.work
    facts: list[tuple[str, str]] = [
        ("Name", f"{session.metadata.name} in {session.metadata.namespace}"),
        ("Session", session.spec.session_id),
        ("Agent", session.spec.agent_id or "not known yet"),
        ("Class", f"{status.session_class.name}" if status.session_class else "none"),
        ("Phase", str(status.phase or "not reconciled yet")),
        ("Ready", f"{ready}, {reason or 'no condition'}" + (f": {message}" if message else "")),
        ("Sandbox", f"{sandbox.id}, {sandbox.state}" if sandbox.id else "none"),
        ("Turns", str(status.turns)),
    ]
    if created := session.metadata.creation_timestamp:
        facts.append(("Age", ago(created, now)))
    if status.last_active_time:
        facts.append(("Last active", f"{ago(status.last_active_time, now)} ago"))
    if work.exit_reason and work.finished_at:
        facts.append(("Last worker", f"ended {ago(work.finished_at, now)} ago: {work.exit_reason}"))
    if ready != "True" and (what := remedy(reason)):
        facts.append(("What to do", what))
    table = _grid()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(f"{name}:", style="bold"), Text(value))
    return table


def _print_waits(told: Story, console: Console) -> None:
    spans = [
        each
        for each in sorted(told.moments, key=lambda moment: moment.at)
        if each.kind is not Kind.NOTE and each.source is story.Source.RESOURCE
    ]
    if spans:
        _section("Newest turn", _spans(spans), console)
    tools = [
        each for each in told.moments if each.source is story.Source.ANTHROPIC and each.seconds is not None
    ]
    if tools:
        total = sum(each.seconds or 0 for each in tools)
        slowest = sorted(tools, key=lambda each: -(each.seconds or 0))[:3]
        names = ", ".join(f"{each.text} {duration(each.seconds or 0)}" for each in slowest)
        console.print(f"  At Anthropic: {counted(len(tools), 'call')}, {duration(total)}; longest: {names}")


def _spans(spans: Sequence[Moment]) -> Iterable[tuple[Text | str, ...]]:
    for each in spans:
        lasts = f"{duration(each.seconds or 0)}{'…' if each.open else ''}"
        yield (f"{each.at:%H:%M:%S}", Text(lasts, style=_STYLES[each.kind]), Text(each.text))


def _print_conditions(session: ManagedSession, now: datetime, console: Console) -> None:
    rows = [
        (str(each.type), str(each.status), ago(each.last_transition_time, now), each.reason, each.message)
        for each in session.status.conditions
    ]
    _section("Conditions", rows, console, "Type", "Status", "Since", "Reason", "Message")


def _print_events(told: Story, now: datetime, console: Console) -> None:
    moments = sorted(story.of_events(told.events), key=lambda each: each.at)
    rows = [
        (ago(each.at, now), Text(each.text, style="red" if each.bad else ""))
        for each in moments[-_RECENT_EVENTS:]
    ]
    if rows:
        _section("Events", rows, console, "Age", "Event")


def _section(title: str, rows: Iterable[tuple[Text | str, ...]], console: Console, *columns: str) -> None:
    table = _grid(*columns)
    for row in rows:
        table.add_row(*(each if isinstance(each, Text) else Text(each) for each in row))
    console.print()
    console.print(f"{title}:", style="bold")
    console.print(table, soft_wrap=False)


def _print_missing(told: Story, console: Console) -> None:
    if told.missing:
        console.print()
        console.print("Not included:", style="dim")
        for each in told.missing:
            console.print(f"  {each}", style="dim", markup=False)
