"""Users: each has one session, sends its messages, waits for the answers and looks at what they say."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
from managed_session_api.conditions import REASONS, Reason
from managed_session_local.simulators.anthropic.client import ControlError, SessionReport

from .plan import Message, Turn
from .world import World, condition

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

PATIENCE_SECONDS = 240.0
"""After which a message without an answer is lost."""
_LOOK_SECONDS = 0.7
_ASK_KUBERNETES_SECONDS = 10.0
_REMEDY_SECONDS = 45.0
"""Between two interrupts of one user: time for an operator to notice the first one."""
_SAID_SECONDS = 20.0
"""In which a loss of files is told of, while the API server answers."""
_REPEATS = 6
_READS_SECONDS = 3.0
"""Before a task is sent again: longer than a worker waits for a message.

What is broken in one, such as a shell that chaos has killed and an agent would start anew, is not met again.
"""
_INTERRUPT = "user.interrupt"
RESOURCE_DELETED = "ResourceDeleted"
"""Why a user interrupts whose resource a person has deleted."""


@dataclass
class UserRecord:
    """What a user has seen.

    Attributes:
        sent: messages.
        turns: finished.
        interrupts: that the user planned, all the same.
        remedies: interrupts that a condition asked for, by its reason.
        recovered: messages that somebody else interrupted: the operator.
        spoiled: answers without the task's end, because its command was broken off.
        files_lost: times that files were gone and chaos had destroyed them.
        complaints: what must not be.
    """

    sent: int = 0
    turns: int = 0
    interrupts: int = 0
    remedies: Counter[str] = field(default_factory=Counter)
    recovered: int = 0
    spoiled: list[str] = field(default_factory=list)
    files_lost: int = 0
    complaints: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


class User:
    """One user with one session.

    Args:
        world: in which.
        number: of the session in the soak.
        closing: whether the soak ends, so that no further turn is begun.
    """

    def __init__(self, world: World, number: int, closing: Callable[[], bool]) -> None:
        self.number = number
        self.session_id = ""
        self.record = UserRecord()
        self._world = world
        self._client: AsyncAnthropic = world.system.user
        self._closing = closing
        self._sent_at: dict[str, float] = {}
        self._kept: list[str] = []
        """Tokens of the files that have to be there."""
        self._interrupted = False
        """By the user, in this turn."""
        self._asked_for = ""
        """Why the resource asked for an interrupt at the last look."""
        self._last_remedy = 0.0

    async def play(self, turns: Iterable[Turn], *, deletes: bool) -> None:
        """Go through the turns; what goes wrong is in the record."""
        try:
            await self._play(turns, deletes=deletes)
        except (anthropic.APIError, ControlError, httpx.HTTPError) as error:
            self._complain(f"the user's own call failed: {type(error).__name__}: {error}")

    async def _play(self, turns: Iterable[Turn], *, deletes: bool) -> None:
        session = await self._client.beta.sessions.create(
            agent=self._world.system.agent_id, environment_id=self._world.system.clouds.environment_id
        )
        self.session_id = session.id
        self._world.sessions.add(session.id)
        try:
            for turn in turns:
                await asyncio.sleep(turn.think_seconds)
                if self._closing():
                    return
                if not await self._turn(turn):
                    return
                self.record.turns += 1
        finally:
            self._world.sessions.discard(session.id)
        if deletes:
            await self._delete()

    async def _turn(self, turn: Turn) -> bool:
        """Whether all was answered in the end, or broken off by the user."""
        pending = turn.messages
        on_purpose = turn.interrupt_after_seconds
        self._interrupted = False
        for repeat in range(1, _REPEATS + 1):
            if repeat > 1:
                await asyncio.sleep(_READS_SECONDS)
            await self._send(pending)
            report = await self._wait(pending, on_purpose)
            if report is None:
                return False
            again = [message.again(repeat) for message in pending if not await self._check(report, message)]
            if not again or on_purpose is not None:
                return True
            pending = tuple(again)
        self._complain(f"{pending[0].token}: not served in {_REPEATS} attempts")
        return False

    async def _send(self, messages: tuple[Message, ...]) -> None:
        now = time.time()
        self._sent_at |= {message.token: now for message in messages}
        self.record.sent += len(messages)
        await self._client.beta.sessions.events.send(
            self.session_id,
            events=[
                {"type": "user.message", "content": [{"type": "text", "text": message.text}]}
                for message in messages
            ],
        )

    async def _wait(
        self, messages: tuple[Message, ...], interrupt_after: float | None
    ) -> SessionReport | None:
        """What Anthropic knows once all messages are answered or interrupted; None where patience ends."""
        began = time.monotonic()
        asked = began + _ASK_KUBERNETES_SECONDS
        planned = None if interrupt_after is None else began + interrupt_after
        while True:
            report = await self._world.system.anthropic_admin.session(self.session_id)
            if all(is_closed(report, message) for message in messages):
                self.record.slowest_seconds = max(self.record.slowest_seconds, time.monotonic() - began)
                return report
            now = time.monotonic()
            if planned is not None and now >= planned:
                # One interrupt ends one message's turn; the user wants none of them.
                self.record.interrupts += 1
                await self._interrupt("on purpose")
            elif now - began > PATIENCE_SECONDS:
                await self._give_up(report, messages)
                return None
            elif now >= asked:
                asked = now + _ASK_KUBERNETES_SECONDS
                await self._follow_the_remedy()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _follow_the_remedy(self) -> None:
        """Do what the resource asks a person to do."""
        resource = await self._world.resource(self.session_id)
        if resource is None:
            return
        ready = condition(resource, "Ready")
        reason = ready.get("reason", "")
        if not resource and self._world.deletions.of(self.session_id):
            reason = RESOURCE_DELETED
        elif ready.get("status") == "True" or not _asks_for_interrupt(reason):
            reason = ""
        # A person looks twice before doing something.
        seen, self._asked_for = self._asked_for, reason
        now = time.monotonic()
        if not reason or seen != reason or now - self._last_remedy < _REMEDY_SECONDS:
            return
        self._last_remedy = now
        self.record.remedies[reason] += 1
        await self._interrupt(f"because of {reason}: {ready.get('message', '')}")

    async def _interrupt(self, why: str) -> None:
        self._world.trace.add("user", "interrupt", self.session_id, why)
        await self._client.beta.sessions.events.send(self.session_id, events=[{"type": "user.interrupt"}])
        self._interrupted = True

    async def _check(self, report: SessionReport, message: Message) -> bool:
        """Whether a message was answered as it has to be; complains about what must not be."""
        if not is_answered(report, message):
            if not self._interrupted:
                self.record.recovered += 1
            return False
        answer = answer_to(report, message)
        if answer is None:
            self.record.spoiled.append(_said_instead(report, message))
            return False
        seen = set(re.findall(r"kept-(s\d+t\d+m\d+(?:r\d+)?)", answer))
        missing = [token for token in self._kept if token not in seen]
        if missing:
            await self._files_are_missing(message, missing)
        self._kept.append(message.token)
        return True

    def _complain(self, text: str) -> None:
        self.record.complaints.append(text)
        self._world.trace.add("user", "complaint", self.session_id, text)
        print(f"complaint of {self.session_id}: {text}", flush=True)

    async def _files_are_missing(self, message: Message, missing: list[str]) -> None:
        unexplained = [
            token
            for token in missing
            if not await self._world.files_destroyed(self.session_id, self._sent_at[token])
        ]
        if unexplained:
            self._complain(f"{message.token}: files are gone for no reason: {unexplained}")
        else:
            self.record.files_lost += 1
            if not self._world.deletions.of(self.session_id):
                untold = await loss_untold(
                    lambda: self._world.resource(self.session_id),
                    said_seconds=_SAID_SECONDS,
                    patience_seconds=PATIENCE_SECONDS,
                )
                if untold:
                    self._complain(f"{message.token}: files are gone and {untold}")
        self._kept = [token for token in self._kept if token not in missing]

    async def _give_up(self, report: SessionReport, messages: tuple[Message, ...]) -> None:
        lost = [message.token for message in messages if not is_closed(report, message)]
        resource = await self._world.resource(self.session_id) or {}
        ready = condition(resource, "Ready")
        self._complain(
            f"lost: {', '.join(lost)} not answered in {PATIENCE_SECONDS:g} s; Ready is "
            f"{ready.get('status')} because of {ready.get('reason')}: {ready.get('message')}"
        )

    async def _delete(self) -> None:
        for _ in range(_REPEATS):
            try:
                await self._client.beta.sessions.delete(self.session_id)
            except anthropic.BadRequestError:
                # The agent has not come to rest yet.
                await asyncio.sleep(0.5)
            else:
                self._world.trace.add("user", "session deleted", self.session_id)
                return


async def loss_untold(
    look: Callable[[], Awaitable[dict[str, Any] | None]], *, said_seconds: float, patience_seconds: float
) -> str:
    """What is wrong with what a resource says of lost files; empty once `WorkspaceLost` is True.

    Args:
        look: reads the resource; None where the API server does not answer.
        said_seconds: how long an API server that answers may say otherwise: the time begins anew after each
            look without an answer, which says nothing, and in which nothing can be written either.
        patience_seconds: for all of it.
    """
    began = time.monotonic()
    otherwise_since: float | None = None
    while True:
        resource = await look()
        now = time.monotonic()
        if resource is None:
            otherwise_since = None
        elif condition(resource, "WorkspaceLost").get("status") == "True":
            return ""
        else:
            otherwise_since = now if otherwise_since is None else otherwise_since
            if now - otherwise_since >= said_seconds:
                return "WorkspaceLost is not True"
        if now - began >= patience_seconds:
            return f"WorkspaceLost was not seen to be True in {patience_seconds:g} s"
        await asyncio.sleep(_LOOK_SECONDS)


def _asks_for_interrupt(reason: str) -> bool:
    try:
        return _INTERRUPT in REASONS[Reason(reason)].remedy
    except (ValueError, KeyError):
        return False


def _turn_of(report: SessionReport, message: Message) -> Any:
    wanted = f"done-{message.token}"
    sent = next(
        (e["id"] for e in report.events if e["type"] == "user.message" and _text(e).endswith(wanted)), None
    )
    return next((turn for turn in report.turns if turn.message_id == sent), None)


def is_closed(report: SessionReport, message: Message) -> bool:
    """Whether a message is answered or broken off."""
    turn = _turn_of(report, message)
    return turn is not None and (turn.answered_at is not None or turn.interrupted_at is not None)


def is_answered(report: SessionReport, message: Message) -> bool:
    """Whether its turn has ended with an answer."""
    turn = _turn_of(report, message)
    return turn is not None and turn.answered_at is not None


def answer_to(report: SessionReport, message: Message) -> str | None:
    """What the agent said in answer; None where the task's end is not in it."""
    wanted = f"done-{message.token}"
    said = (_text(event) for event in report.events if event["type"] == "agent.message")
    return next((text for text in said if text.endswith(wanted)), None)


def _said_instead(report: SessionReport, message: Message) -> str:
    last = [_text(event) for event in report.events if event["type"] == "agent.message"][-1:]
    return f"{message.token}: {last[0][-200:] if last else 'nothing'}"


def _text(event: dict[str, Any]) -> str:
    blocks = event.get("content") or []
    return "\n".join(block.get("text", "") for block in blocks if block.get("type") == "text").strip()
