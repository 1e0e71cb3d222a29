"""Counts for how long the sandboxes of a class were active today, against the class's own daily budget. Pure.

This is the budget that a platform team gives a class (`spec.limits.maxActiveSecondsPerDay`). The budget that
Anthropic keeps for a session is another one; see `budget.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_api.session_class import ClassActivity, ManagedSessionClass

from managed_session_operator.domain.days import day_of, midnight
from managed_session_operator.domain.resource_summary import ResourceSummary, active_since


def running_seconds(since: datetime | None, now: datetime) -> float:
    """Return for how long a sandbox has been active today, if it has been since then."""
    return max(0.0, (now - max(since, midnight(now))).total_seconds()) if since is not None else 0.0


def counted(resource: ManagedSession, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return `status.activeToday` for a write that ends a claim or gives the session another class.

    Args:
        resource: the resource before the write.
        fields: what is written to the status.
        now: the time of the write.
    """
    before = resource.status.session_class
    if before is None:
        return {}
    work, other = fields.get("work") or {}, _other_class(resource, fields)
    ends = bool(work.get("finishedAt") or work.get("waitPausedAt"))
    ends = ends or (work.get("claim") not in (None, resource.status.work.claim))
    if other:
        return {"activeToday": None} if resource.status.active_today is not None else {}
    seconds = round(running_seconds(active_since(resource), now)) if ends else 0
    if not seconds:
        return {}
    day, today = day_of(now), resource.status.active_today
    recorded = today.seconds if today is not None and today.day == day else 0
    return {"activeToday": {"day": day, "seconds": recorded + seconds}}


def _other_class(resource: ManagedSession, fields: Mapping[str, Any]) -> bool:
    if "class" not in fields:
        return False
    before, after = resource.status.session_class, fields["class"]
    return before is None or after is None or (before.name, before.uid) != (after["name"], after.get("uid"))


@dataclass
class ClassUsage:
    """What the sessions of one class use."""

    sessions: int = 0
    active_sandboxes: int = 0
    waiting: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Active seconds today, by the UIDs of its sessions."""


@dataclass
class ClassLedger:
    """Keeps how many active seconds each class has used today, including sessions that it serves no longer.

    A status of a class records the total, so that a later leader continues from it. Belongs to one process.
    """

    _day: str = ""
    _seen: dict[str, dict[str, float]] = field(default_factory=dict)
    _departed: dict[str, float] = field(default_factory=dict)

    def account(self, each: ManagedSessionClass, usage: ClassUsage, now: datetime) -> ClassActivity:
        """Return what the class has used today, given what its present sessions have used."""
        uid, day = each.metadata.uid, day_of(now)
        if day != self._day:
            self._day, self._seen, self._departed = day, {}, {}
        present = sum(usage.seconds.values())
        if uid not in self._seen:
            self._departed[uid] = self._taken_over(each, present, day)
        else:
            gone = self._seen[uid].keys() - usage.seconds.keys()
            self._departed[uid] += sum(self._seen[uid][session] for session in gone)
        self._seen[uid] = dict(usage.seconds)
        departed = self._departed[uid]
        return ClassActivity(day=day, seconds=int(present + departed), departed_seconds=int(departed))

    def _taken_over(self, each: ManagedSessionClass, present: float, day: str) -> float:
        """Return the part of an earlier leader's total that no present session accounts for."""
        recorded = each.status.active_today
        if recorded is None or recorded.day != day:
            return 0.0
        return max(float(recorded.departed_seconds), recorded.seconds - present)

    def clear(self) -> None:
        """Forget everything, because this process no longer leads."""
        self._day, self._seen, self._departed = "", {}, {}


def usage_by_class(
    sessions: Iterable[ResourceSummary], waiting: Mapping[str, int], now: datetime
) -> dict[str, ClassUsage]:
    """Return what the sessions of each class use, by the class's name.

    Args:
        sessions: all sessions.
        waiting: number of sessions that wait for a slot, by class. Those that wait for their first one do not
            record their class yet.
        now: the time.
    """
    found, day = {name: ClassUsage(waiting=count) for name, count in waiting.items()}, day_of(now)
    for each in sessions:
        if each.class_name is None:
            continue
        usage = found.setdefault(each.class_name, ClassUsage())
        usage.sessions += 1
        usage.active_sandboxes += each.sandbox_state in (SandboxState.RUNNING, SandboxState.CREATING)
        recorded = each.counted[1] if each.counted is not None and each.counted[0] == day else 0
        seconds = recorded + running_seconds(each.active_since, now)
        if seconds:
            usage.seconds[each.uid] = seconds
    return found


def spent_message(each: ManagedSessionClass) -> str:
    """Describe a class whose budget of today is used up."""
    return (
        f"The sessions of class {each.metadata.name} were active today (UTC) for the "
        f"{each.spec.limits.max_active_seconds_per_day} seconds that its `maxActiveSecondsPerDay` allows. "
        "Wait until 00:00 UTC, or raise it."
    )
