"""Runs a soak, from its start to its verdict."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from managed_session_api.credentials import Credential
from managed_session_devkit.control_plane import ControlPlane

from ..support.echo_server import EchoServer
from ..support.system_pool import SystemPool
from ..support.systems import FORK_SERVER
from .chaos import inject_faults
from .evidence import Finding, judge
from .evidence_collection import collect_evidence, resources
from .plan import ends_itself, has_api_key, is_prepared, turns
from .prepared_sessions import PreparedSessions
from .shared_state import SOAK, SharedState
from .timeline import render, timeline
from .users import User

END_SECONDS = 100.0
"""Part of the whole time that is reserved for the last answers, the verdict and the deletion."""
VERDICT_SECONDS = 45.0
"""Part of `END_SECONDS` that is reserved for the verdict and the deletion."""
LAST_ANSWERS_SECONDS = 150.0
"""Least time to wait for the last answers: a slow machine is no finding."""
SETTLE_SECONDS = 90.0
PROGRESS_SECONDS = 10.0
REPORTED_SESSIONS = 10


@dataclass(frozen=True)
class Options:
    """Options of a soak.

    Attributes:
        minutes: length of the soak, longer where the last answers are late. None: until all sessions have had
            all turns.
    """

    sessions: int
    turns: int
    at_once: int
    fault_loops: int
    seed: int
    minutes: float | None


def too_few_left(options: Options, *, begun: int, playing: int) -> bool:
    """Return whether the faults would hit so few sessions that they could hardly continue."""
    return begun >= options.sessions and playing < min(options.at_once, options.sessions) / 4


@dataclass
class Soak:
    """A running soak.

    Attributes:
        playing: number of users that play.
    """

    options: Options
    shared: SharedState
    began: float
    users: list[User] = field(default_factory=list)
    playing: int = 0

    def closing(self) -> bool:
        """Return whether no more turns may begin."""
        minutes = self.options.minutes
        return minutes is not None and time.monotonic() > self.began + minutes * 60 - END_SECONDS

    async def play(self) -> None:
        """Run users and chaos at once. The chaos ends first; then the users get their last answers."""
        chaos = [
            asyncio.create_task(inject_faults(self.shared, self.options.seed, number))
            for number in range(1, self.options.fault_loops + 1)
        ]
        keeper = asyncio.create_task(self.shared.keep_pods())
        progress = asyncio.create_task(self._progress())
        numbers = iter(range(self.options.sessions))
        users = asyncio.gather(*(self._play_sessions(numbers) for _ in range(self.options.at_once)))
        try:
            while not users.done() and not self.closing() and not self._too_few_left():
                await asyncio.wait([users], timeout=0.5)
                if (broken := next((each for each in chaos if each.done()), None)) is not None:
                    broken.result()
            self.shared.chaos_is_over.set()
            await asyncio.gather(*chaos, return_exceptions=True)
            await self.shared.end_faults()
            with suppress(TimeoutError):
                # The verdict finds users without an answer.
                await asyncio.wait_for(users, self._patience())
            await self._settle()
        finally:
            for task in (*chaos, progress, keeper):
                task.cancel()
            users.cancel()
            await asyncio.gather(*chaos, users, progress, keeper, return_exceptions=True)

    def _too_few_left(self) -> bool:
        return too_few_left(self.options, begun=len(self.users), playing=self.playing)

    def _patience(self) -> float | None:
        """Return the seconds to wait for the last answers. None: until every user has them or gives up."""
        minutes = self.options.minutes
        if minutes is None:
            return None
        left = self.began + minutes * 60 - VERDICT_SECONDS - time.monotonic()
        return max(left, LAST_ANSWERS_SECONDS)

    async def _play_sessions(self, numbers: Iterator[int]) -> None:
        """Play one session after the other, of those that nobody else plays."""
        for number in numbers:
            if self.closing():
                return
            seed = self.options.seed
            user = User(self.shared, number, self.closing, prepared=is_prepared(seed, number))
            self.users.append(user)
            self.playing += 1
            await user.play(turns(seed, number, self.options.turns), deletes=ends_itself(seed, number))
            self.playing -= 1

    async def _settle(self) -> None:
        """Wait for a while until nothing runs. The verdict finds what does not stop."""
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet = 0
        while quiet < 3 and time.monotonic() < deadline:
            quiet = quiet + 1 if await self._is_at_rest() else 0
            await asyncio.sleep(1)

    async def _is_at_rest(self) -> bool:
        """Whether no sandbox runs and none will: work that is not stopped is offered now or later."""
        system = self.shared.system
        sandboxes = await system.e2b_admin.sandboxes()
        items, stranded = await system.anthropic_admin.work()
        return (
            all(each.state in ("paused", "killed") for each in sandboxes)
            and all(item["state"] == "stopped" for item in items)
            and not stranded
        )

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            print(self.line(), flush=True)

    def line(self) -> str:
        """Return one line about the progress."""
        records = [user.record for user in self.users]
        counts = {
            "sessions": len(self.users),
            "open": len(self.shared.sessions),
            "turns": sum(record.turns for record in records),
            "messages": sum(record.sent for record in records),
            "faults": self.shared.trace.counts("chaos").total(),
            "complaints": sum(len(record.complaints) for record in records),
        }
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"{time.monotonic() - self.began:5.0f} s  {text}"


async def run_soak(options: Options) -> bool:
    """Play a soak on its own system and print its progress. Return whether every promise held."""
    began = time.monotonic()
    print(f"soak with seed {options.seed}: {options}", flush=True)
    async with AsyncExitStack() as stack:
        control_plane = await stack.enter_async_context(ControlPlane())
        stack.push_async_callback(FORK_SERVER.close)
        system_pool = SystemPool(control_plane)
        stack.push_async_callback(system_pool.close)
        system, proxies = await system_pool.set_up(SOAK)
        prepared = PreparedSessions(await stack.enter_async_context(EchoServer()))
        await prepared.declare(system)
        soak = Soak(options, SharedState(control_plane, system, proxies, prepared), began)
        print(
            f"{time.monotonic() - began:5.0f} s  the system is ready; logs are in {system.folder}", flush=True
        )
        if has_api_key(options.seed):
            print("the operators have an API key and recover stuck sessions themselves")
            for pod in system.operators:
                pod.set_credential(Credential.ANTHROPIC_API_KEY, system.api_key)
        await soak.play()
        print(soak.line(), flush=True)
        before = await resources(soak.shared)
        findings = judge(await collect_evidence(soak.shared, soak.users))
        for text in summary(soak):
            print(text)
        await _report(soak, findings, before)
    print(f"{'FAILED' if findings else 'passed'}: {len(findings)} findings, seed {options.seed}")
    return not findings


def summary(soak: Soak) -> list[str]:
    """Return a summary for people."""
    shared, records = soak.shared, [user.record for user in soak.users]
    remedies: Counter[str] = sum((record.remedies for record in records), Counter())
    spoiled = [text for record in records for text in record.spoiled]
    slowest = max((record.slowest_seconds for record in records), default=0)
    faults = shared.trace.counts("chaos")
    lines = [
        soak.line(),
        f"slowest answer: {slowest:.0f} s",
        f"interrupts by users as planned: {sum(r.interrupts for r in records)}",
        f"calls that waited for a person, answered late: {sum(r.answered for r in records)}",
        f"requests with the secret: {len(shared.prepared.api.requests)}",
        f"interrupts that a condition asked for: {dict(remedies)}",
        f"messages that the operator interrupted: {sum(r.recovered for r in records)}",
        f"incomplete answers, requested again: {len(spoiled)}",
        *(f"  {text!r}" for text in spoiled[:5]),
        f"losses of files that faults explain: {sum(r.files_lost for r in records)}",
        f"pods that ended by themselves: {dict(Counter(shared.ended_unexpectedly))}",
        *(f"{count:7d} {kind}" for kind, count in faults.most_common()),
    ]
    if failed := shared.trace.counts("chaos failed"):
        lines.append(f"faults whose target had vanished: {dict(failed)}")
    return lines


async def _report(soak: Soak, findings: list[Finding], before: dict[str, dict[str, Any]]) -> None:
    """Write the timelines to files and print the first one, then the findings.

    A log of which only the end is kept still has the findings and the end of the story.
    """
    folder = Path(f"soak-{soak.options.seed}")
    sessions = list(dict.fromkeys(each.session_id for each in findings if each.session_id))
    for number, session_id in enumerate(sessions[:REPORTED_SESSIONS]):
        text = await timeline(soak.shared, session_id, before.get(session_id))
        folder.mkdir(exist_ok=True)
        (folder / f"{session_id}.txt").write_text(text)
        if number == 0:
            print(text)
    if findings:
        folder.mkdir(exist_ok=True)
        lines = [(each.at, each.who, each.text) for each in soak.shared.trace.entries]
        (folder / "faults.txt").write_text("\n".join(render(lines, since=0)))
        for name, path in soak.shared.system.logs.items():
            if name in soak.shared.pods:
                (folder / f"{name}.log").write_bytes(path.read_bytes())
        print(f"timelines, faults and logs are in {folder}/")
    for finding in findings:
        print(f"FINDING {finding.session_id} {finding.text}")
