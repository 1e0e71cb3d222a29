"""A soak from its start to its verdict."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from managed_session_local.clouds import API_KEY
from managed_session_local.control_plane import ControlPlane

from ..faults.stage import Stage
from .chaos import hand
from .evidence import Finding, judge
from .inquiry import inquire, resources
from .plan import ends_itself, has_api_key, turns
from .timeline import render, timeline
from .users import User
from .world import SOAK, World

END_SECONDS = 100.0
"""Kept of the time in all for the last answers, the verdict and the deletion."""
VERDICT_SECONDS = 45.0
"""Of them for the verdict and the deletion."""
SETTLE_SECONDS = 30.0
PROGRESS_SECONDS = 10.0
REPORTED_SESSIONS = 10


@dataclass(frozen=True)
class Options:
    """What kind of soak.

    Attributes:
        minutes: in all; None: until all sessions have had all turns.
    """

    sessions: int
    turns: int
    at_once: int
    hands: int
    seed: int
    minutes: float | None


def few_left(options: Options, *, begun: int, playing: int) -> bool:
    """Whether all of chaos would hit so few sessions that they hardly get on: no further one will begin."""
    return begun >= options.sessions and playing < min(options.at_once, options.sessions) / 4


@dataclass
class Soak:
    """A soak at work.

    Attributes:
        playing: how many users are at it.
    """

    options: Options
    world: World
    began: float
    users: list[User] = field(default_factory=list)
    playing: int = 0

    def closing(self) -> bool:
        """Whether no further turn is to begin."""
        minutes = self.options.minutes
        return minutes is not None and time.monotonic() > self.began + minutes * 60 - END_SECONDS

    async def play(self) -> None:
        """Users and chaos side by side; chaos ends first, then the users have their last answers."""
        chaos = [
            asyncio.create_task(hand(self.world, self.options.seed, number))
            for number in range(1, self.options.hands + 1)
        ]
        keeper = asyncio.create_task(self.world.keep_pods())
        progress = asyncio.create_task(self._progress())
        numbers = iter(range(self.options.sessions))
        users = asyncio.gather(*(self._seat(numbers) for _ in range(self.options.at_once)))
        try:
            while not users.done() and not self.closing() and not self._few_left():
                await asyncio.wait([users], timeout=0.5)
                if (broken := next((each for each in chaos if each.done()), None)) is not None:
                    broken.result()
            for each in chaos:
                each.cancel()
            await asyncio.gather(*chaos, return_exceptions=True)
            await self.world.calm()
            with suppress(TimeoutError):
                # Who has no answer then is found by the verdict.
                await asyncio.wait_for(users, self._patience())
            await self._settle()
        finally:
            for task in (*chaos, progress, keeper):
                task.cancel()
            users.cancel()
            await asyncio.gather(*chaos, users, progress, keeper, return_exceptions=True)

    def _few_left(self) -> bool:
        return few_left(self.options, begun=len(self.users), playing=self.playing)

    def _patience(self) -> float | None:
        """How long the last answers are awaited, seconds; None: until every user has them or has given up."""
        minutes = self.options.minutes
        if minutes is None:
            return None
        return max(self.began + minutes * 60 - VERDICT_SECONDS - time.monotonic(), 1)

    async def _seat(self, numbers: Iterator[int]) -> None:
        """One seat: a session after the other, of those that no other seat has taken."""
        for number in numbers:
            if self.closing():
                return
            user = User(self.world, number, self.closing)
            self.users.append(user)
            seed = self.options.seed
            self.playing += 1
            await user.play(turns(seed, number, self.options.turns), deletes=ends_itself(seed, number))
            self.playing -= 1

    async def _settle(self) -> None:
        """Wait until nothing runs, for a while: what does not come to rest is found by the verdict."""
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet = 0
        while quiet < 3 and time.monotonic() < deadline:
            active = [
                each
                for each in await self.world.system.e2b_admin.sandboxes()
                if each.state not in ("paused", "killed")
            ]
            quiet = 0 if active else quiet + 1
            await asyncio.sleep(1)

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            print(self.line(), flush=True)

    def line(self) -> str:
        """How far it is."""
        records = [user.record for user in self.users]
        counts = {
            "sessions": len(self.users),
            "open": len(self.world.sessions),
            "turns": sum(record.turns for record in records),
            "messages": sum(record.sent for record in records),
            "faults": self.world.trace.counts("chaos").total(),
            "complaints": sum(len(record.complaints) for record in records),
        }
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"{time.monotonic() - self.began:5.0f} s  {told}"


async def soak(options: Options) -> bool:
    """Play a soak on a system of its own and print its course; whether every promise held."""
    began = time.monotonic()
    print(f"soak with seed {options.seed}: {options}", flush=True)
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane())
        stage = Stage(plane)
        stack.push_async_callback(stage.close)
        system, proxies = await stage.set_up(SOAK)
        soak_ = Soak(options, World(plane, system, proxies), began)
        print(
            f"{time.monotonic() - began:5.0f} s  the system is ready; logs are in {system.folder}", flush=True
        )
        if has_api_key(options.seed):
            print("the operators have an API key and recover stuck sessions themselves")
            for pod in system.operators:
                pod.set_credential(API_KEY, system.api_key)
        await soak_.play()
        print(soak_.line(), flush=True)
        before = await resources(soak_.world)
        findings = judge(await inquire(soak_.world, soak_.users))
        for text in summary(soak_):
            print(text)
        await _report(soak_, findings, before)
    print(f"{'FAILED' if findings else 'passed'}: {len(findings)} findings, seed {options.seed}")
    return not findings


def summary(soak_: Soak) -> list[str]:
    """What was done and what it took, for people."""
    world, records = soak_.world, [user.record for user in soak_.users]
    remedies: Counter[str] = sum((record.remedies for record in records), Counter())
    spoiled = [text for record in records for text in record.spoiled]
    slowest = max((record.slowest_seconds for record in records), default=0)
    faults = world.trace.counts("chaos")
    lines = [
        soak_.line(),
        f"slowest answer: {slowest:.0f} s",
        f"interrupts by users as planned: {sum(r.interrupts for r in records)}",
        f"interrupts that a condition asked for: {dict(remedies)}",
        f"messages that the operator broke off: {sum(r.recovered for r in records)}",
        f"answers without the task's end, asked again: {len(spoiled)}",
        *(f"  {text!r}" for text in spoiled[:5]),
        f"losses of files that chaos explains: {sum(r.files_lost for r in records)}",
        f"pods that ended by themselves: {dict(Counter(world.ended_by_themselves))}",
        *(f"{count:7d} {kind}" for kind, count in faults.most_common()),
    ]
    if failed := world.trace.counts("chaos failed"):
        lines.append(f"faults that found no target any more: {dict(failed)}")
    return lines


async def _report(soak_: Soak, findings: list[Finding], before: dict[str, dict[str, Any]]) -> None:
    """Print what did not hold; the timelines go to files, the first one's also to the output."""
    for finding in findings:
        print(f"FINDING {finding.session_id} {finding.text}")
    folder = Path(f"soak-{soak_.options.seed}")
    sessions = list(dict.fromkeys(each.session_id for each in findings if each.session_id))
    for number, session_id in enumerate(sessions[:REPORTED_SESSIONS]):
        text = await timeline(soak_.world, session_id, before.get(session_id))
        folder.mkdir(exist_ok=True)
        (folder / f"{session_id}.txt").write_text(text)
        if number == 0:
            print(text)
    if findings:
        folder.mkdir(exist_ok=True)
        lines = [(each.at, each.who, each.told) for each in soak_.world.trace.entries]
        (folder / "faults.txt").write_text("\n".join(render(lines, since=0)))
        for name, path in soak_.world.system.logs.items():
            if name in soak_.world.pods:
                (folder / f"{name}.log").write_bytes(path.read_bytes())
        print(f"timelines, faults and logs are in {folder}/")
