"""`managed-sessions top`: the sessions that run, wait or fail, and how much of the slots they use."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Phase, Reason
from managed_session_api.resource import ManagedSession, SandboxState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import ClusterError
from managed_session_cli.installation import OPERATOR, Installation, setting
from managed_session_cli.session_tables import Selection, list_table
from managed_session_cli.wording import ago, duration

_AT_REST = frozenset({Reason.IDLE, Reason.SUSPENDED, Reason.SESSION_ENDED})
_SHARE_OF_TIME = 5
"""A list that takes long is read so much more seldom that it takes this part of the time at most."""
_FILE_WIDTH = 200
_STYLES = {"failed": "red", "waiting": "yellow", "running": "green"}


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Attributes:
        selection: which sessions.
        interval: seconds between two looks.
        once: whether to print one table and end.
        as_json: whether to print JSON instead.
    """

    selection: Selection
    interval: float
    once: bool
    as_json: bool


@dataclass(frozen=True)
class Busy:
    """A session that is not at rest.

    Attributes:
        name: of the resource.
        session_id: Anthropic's.
        class_name: of its class; empty without one.
        state: `running`, `waiting` or `failed`.
        reason: of the condition Ready.
        since: since when it is in this state, if that is known.
        waited: how many seconds its newest work waited for its worker, or has been waiting.
        turn: the number of the turn.
        created: when the resource was created.
        message: of the condition Ready.
    """

    name: str
    session_id: str
    class_name: str
    state: str
    reason: str
    since: datetime | None
    waited: float | None
    turn: int
    created: datetime | None
    message: str


@dataclass(frozen=True)
class Overview:
    """All sessions at one moment.

    Attributes:
        at: when.
        counts: number of sessions by state, those at rest included.
        slots_used: number of sandboxes that run or are being created.
        slots: the operator's limit; None if it is not known.
        busy: the sessions that are not at rest, those with a problem first, then by the length of their wait.
    """

    at: datetime
    counts: Counter[str]
    slots_used: int
    slots: int | None
    busy: tuple[Busy, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "at": self.at.isoformat(),
            "sessions": dict(self.counts),
            "slots": {"used": self.slots_used, "limit": self.slots},
            "busy": [
                {
                    "name": each.name,
                    "session": each.session_id,
                    "class": each.class_name,
                    "state": each.state,
                    "reason": each.reason,
                    "since": each.since.isoformat() if each.since else None,
                    "waitedSeconds": each.waited,
                    "turn": each.turn,
                    "message": each.message,
                }
                for each in self.busy
            ],
        }


def top(cluster: Cluster, installation: Installation, options: Options, console: Console) -> None:
    """Show the table, again and again on a terminal until Ctrl-C.

    Raises:
        ClusterError: the API server rejected the call, or did not answer the first one.
    """
    slots = _slots(cluster, installation)

    def look() -> Overview:
        rows = list_table(cluster, options.selection).rows
        sessions = [ManagedSession.model_validate(row.object) for row in rows]
        return overview(sessions, slots, datetime.now(UTC))

    if options.as_json:
        print(json.dumps(look().to_json(), indent=2))
    elif options.once or not console.is_terminal:
        if not console.is_terminal:
            console.width = max(console.width, _FILE_WIDTH)
        console.print(drawn(look()), soft_wrap=False)
    else:
        _go_on(look, options.interval, console)


def _go_on(look: Any, interval: float, console: Console) -> None:
    with Live(drawn(look()), console=console, screen=True, auto_refresh=False) as live:
        took = 0.0
        while True:
            time.sleep(max(interval, took * _SHARE_OF_TIME))
            began = time.monotonic()
            try:
                shown = drawn(look(), height=console.height)
            except ClusterError as error:
                shown = Group(Text(str(error), style="red"), Text("Trying again.", style="dim"))
            took = time.monotonic() - began
            live.update(shown, refresh=True)


def overview(sessions: Iterable[ManagedSession], slots: int | None, now: datetime) -> Overview:
    """Sum up sessions."""
    counts: Counter[str] = Counter()
    running: set[str] = set()
    busy = []
    for session in sessions:
        state = state_of(session)
        counts[state] += 1
        sandbox = session.status.sandbox
        if sandbox.state in (SandboxState.RUNNING, SandboxState.CREATING):
            running.add(sandbox.id or session.metadata.name)
        if state not in ("idle", "suspended", "ended"):
            busy.append(_busy(session, state, now))
    order = list(_STYLES)
    busy.sort(key=lambda each: (order.index(each.state), -(each.waited or 0), each.name))
    return Overview(now, counts, len(running), slots, tuple(busy))


def state_of(session: ManagedSession) -> str:
    """Return `running`, `waiting`, `failed`, `idle`, `suspended` or `ended`."""
    ready = session.status.condition(ConditionType.READY)
    reason = ready.reason if ready else ""
    if reason in _AT_REST:
        return {Reason.IDLE: "idle", Reason.SUSPENDED: "suspended"}.get(Reason(reason), "ended")
    work = session.status.work
    if reason in (Reason.RUNNING, Reason.AWAITING_USER):
        return "running" if work.wait_paused_at is None else "waiting"
    if session.status.phase is Phase.FAILED or reason in (Reason.SESSION_STUCK, Reason.WORK_STRANDED):
        return "failed"
    if ready is not None and ready.status is ConditionStatus.TRUE and work.finished_at is not None:
        return "idle"
    return "waiting"


def _busy(session: ManagedSession, state: str, now: datetime) -> Busy:
    status, work = session.status, session.status.work
    ready = status.condition(ConditionType.READY)
    event = status.last_event.created_at if status.last_event else None
    asked = min(filter(None, (event, work.offered_at)), default=None) if not work.finished_at else event
    served = work.first_heartbeat_at if not work.finished_at else None
    since = {"running": work.awaiting_user_since or served}.get(state) or (
        ready.last_transition_time if ready else session.metadata.creation_timestamp
    )
    waited = max(0.0, ((served or now) - asked).total_seconds()) if asked else None
    return Busy(
        session.metadata.name,
        session.spec.session_id,
        status.session_class.name if status.session_class else "",
        state,
        ready.reason if ready else "New",
        since,
        waited,
        status.turns + (0 if work.finished_at else 1),
        session.metadata.creation_timestamp,
        ready.message if ready else "",
    )


def drawn(now: Overview, height: int | None = None) -> Group:
    """Return what is shown; with a height, as much of it as fits."""
    used = f"{now.slots_used} of {now.slots}" if now.slots else str(now.slots_used)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(now.counts.items())) or "no sessions"
    head = Text.assemble((f"{now.at:%H:%M:%S} UTC", "bold"), f"   sessions: {counts}   slots used: {used}")
    fits = len(now.busy) if height is None else max(1, height - 5)
    parts: list[Any] = [head, Text()]
    if now.busy:
        parts.append(_table(now.busy[:fits], now.at))
    if left := len(now.busy) - fits:
        parts.append(Text(f"… and {left} more", style="dim") if left > 0 else Text())
    return Group(*parts)


def _table(busy: Sequence[Busy], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in _COLUMNS:
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for each in busy:
        table.add_row(
            each.session_id,
            each.class_name or "-",
            Text(each.reason, style=_STYLES[each.state]),
            ago(each.since, now) if each.since else "-",
            duration(each.waited) if each.waited is not None else "-",
            str(each.turn),
            ago(each.created, now) if each.created else "-",
            Text(each.message),
        )
    return table


_COLUMNS = (
    ("SESSION", False),
    ("CLASS", False),
    ("REASON", False),
    ("FOR", True),
    ("WAITED", True),
    ("TURN", True),
    ("AGE", True),
    ("MESSAGE", False),
)
_MOST = "MANAGED_SESSIONS_MAX_ACTIVE_SANDBOXES"
_PLAN = "MANAGED_SESSIONS_E2B_PLAN"
_SLOTS_OF_PLANS = {"hobby": 20, "pro": 100}
"""What the operator takes for the limit if only the plan is set, as docs/settings.md says."""


def _slots(cluster: Cluster, installation: Installation) -> int | None:
    """Return the operator's limit, if the user may read its settings."""
    try:
        deployment = cluster.get(installation.deployment(OPERATOR))
        settings = cluster.get(installation.settings)
    except ClusterError:
        return None
    if deployment is None:
        return None
    given = setting(_MOST, deployment, settings)
    if given and given.isdigit():
        return int(given)
    return _SLOTS_OF_PLANS.get(setting(_PLAN, deployment, settings) or "hobby")
