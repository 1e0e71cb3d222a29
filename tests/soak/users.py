"""The users. Each has one session, sends its messages, waits for the answers and checks them."""

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
from managed_session_api.conditions import Reason
from managed_session_api.reasons import REASONS
from managed_session_devkit.simulators.anthropic.client import ControlError, SessionReport

from .late_answers import LateAnswers
from .plan import Message, Turn
from .prepared_sessions import METADATA
from .reports import answer_to, is_answered, is_closed, last_answer
from .shared_state import SharedState, condition

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

PATIENCE_SECONDS = 240.0
"""After this time, a message without an answer is lost."""
_POLL_SECONDS = 0.7
_ASK_KUBERNETES_SECONDS = 10.0
_REMEDY_SECONDS = 45.0
"""Pause between two interrupts of one user, so that an operator can notice the first one."""
_REPORT_SECONDS = 60.0
"""Time in which a loss of files has to be reported: longer than chaos leaves the cluster without a leader."""
_REPEATS = 6
_READS_SECONDS = 3.0
"""Pause before a task is sent again, longer than a worker waits for a message.

So a new worker serves it, which does not have what broke in the old one, such as a killed shell.
"""
_INTERRUPT = "user.interrupt"
RESOURCE_DELETED = "ResourceDeleted"
"""Reason for an interrupt after a person has deleted the resource."""


@dataclass
class UserRecord:
    """What a user has seen. The numbers are counts.

    Attributes:
        sent: messages sent.
        turns: finished turns.
        interrupts: interrupts that the plan contains.
        remedies: interrupts that a condition asked for, by reason.
        recovered: messages that the operator interrupted.
        spoiled: incomplete answers, because the task's command was aborted.
        files_lost: losses of files that faults explain.
        answered: calls that waited for this user and were answered late.
        complaints: broken promises.
    """

    sent: int = 0
    turns: int = 0
    interrupts: int = 0
    remedies: Counter[str] = field(default_factory=Counter)
    recovered: int = 0
    spoiled: list[str] = field(default_factory=list)
    files_lost: int = 0
    answered: int = 0
    complaints: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


class User:
    """One user with one session.

    Args:
        shared: state of the soak.
        number: number of the session in the soak.
        prepared: whether the session has the class with a setup and secrets.
        closing: returns whether the soak is ending, so that no more turns may begin.
    """

    def __init__(
        self, shared: SharedState, number: int, closing: Callable[[], bool], *, prepared: bool = False
    ) -> None:
        self.number = number
        self._prepared = prepared
        self.session_id = ""
        self.record = UserRecord()
        self._shared = shared
        self._client: AsyncAnthropic = shared.system.user
        self._closing = closing
        self._sent_at: dict[str, float] = {}
        self._kept: list[str] = []
        """Tokens of the files that must exist."""
        self._interrupted = False
        """Whether the user has interrupted this turn."""
        self._requested_by = ""
        """Reason for which the resource last asked for an interrupt."""
        self._last_remedy = 0.0

    async def play(self, turns: Iterable[Turn], *, deletes: bool) -> None:
        """Play the turns. The record has what goes wrong."""
        try:
            await self._play(turns, deletes=deletes)
        except (anthropic.APIError, ControlError, httpx.HTTPError) as error:
            self._complain(f"the user's own call failed: {type(error).__name__}: {error}")

    async def _play(self, turns: Iterable[Turn], *, deletes: bool) -> None:
        session = await self._client.beta.sessions.create(
            agent=self._shared.system.agent_id,
            environment_id=self._shared.system.clouds.environment_id,
            metadata=METADATA if self._prepared else {},
        )
        self.session_id = session.id
        self._shared.sessions.add(session.id)
        try:
            for turn in turns:
                await asyncio.sleep(turn.think_seconds)
                if self._closing():
                    return
                if not await self._turn(turn):
                    return
                self.record.turns += 1
        finally:
            self._shared.sessions.discard(session.id)
        if deletes:
            await self._delete()

    async def _turn(self, turn: Turn) -> bool:
        """Play a turn. Return whether all messages were answered, or interrupted by the user."""
        pending = turn.messages
        on_purpose = turn.interrupt_after_seconds
        self._interrupted = False
        for repeat in range(1, _REPEATS + 1):
            if repeat > 1:
                await asyncio.sleep(_READS_SECONDS)
            await self._send(pending)
            report = await self._wait(pending, on_purpose, turn.answer_after_seconds)
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
        self, messages: tuple[Message, ...], interrupt_after: float | None, answer_after: float
    ) -> SessionReport | None:
        """Wait until all messages are answered or interrupted. Return the report, or None after a timeout."""
        began = time.monotonic()
        asked = began + _ASK_KUBERNETES_SECONDS
        answers = LateAnswers(self._client, self.session_id)
        planned = None if interrupt_after is None else began + interrupt_after
        while True:
            report = await self._shared.system.anthropic_admin.session(self.session_id)
            if all(is_closed(report, message) for message in messages):
                self.record.answered += answers.given
                self.record.slowest_seconds = max(self.record.slowest_seconds, time.monotonic() - began)
                return report
            await answers.give(report, answer_after)
            now = time.monotonic()
            if planned is not None and now >= planned:
                # An interrupt ends the turn of one message, and the user wants to end all.
                self.record.interrupts += 1
                await self._interrupt("on purpose")
            elif now - began > PATIENCE_SECONDS:
                await self._give_up(report, messages)
                return None
            elif now >= asked:
                asked = now + _ASK_KUBERNETES_SECONDS
                await self._follow_remedy()
            await asyncio.sleep(_POLL_SECONDS)

    async def _follow_remedy(self) -> None:
        """Do what the resource's condition asks a person to do."""
        resource = await self._shared.resource(self.session_id)
        if resource is None:
            return
        ready = condition(resource, "Ready")
        reason = ready.get("reason", "")
        if not resource and self._shared.deletions.of(self.session_id):
            reason = RESOURCE_DELETED
        elif ready.get("status") == "True" or not _asks_for_interrupt(reason):
            reason = ""
        # A person checks twice before acting.
        seen, self._requested_by = self._requested_by, reason
        now = time.monotonic()
        if not reason or seen != reason or now - self._last_remedy < _REMEDY_SECONDS:
            return
        self._last_remedy = now
        self.record.remedies[reason] += 1
        await self._interrupt(f"because of {reason}: {ready.get('message', '')}")

    async def _interrupt(self, why: str) -> None:
        self._shared.trace.add("user", "interrupt", self.session_id, why)
        await self._client.beta.sessions.events.send(self.session_id, events=[{"type": "user.interrupt"}])
        self._interrupted = True

    async def _check(self, report: SessionReport, message: Message) -> bool:
        """Return whether a message was answered completely. Complain about broken promises."""
        if not is_answered(report, message):
            if not self._interrupted:
                self.record.recovered += 1
            return False
        answer = answer_to(report, message)
        if answer is None:
            self.record.spoiled.append(last_answer(report, message))
            return False
        if message.prepared:
            if self._shared.prepared.shown not in answer:
                self._complain(f"{message.token}: the sandbox is not prepared: {answer[-200:]!r}")
            if "api: served" not in answer:
                # A pause may have cut the request off.
                self.record.spoiled.append(last_answer(report, message))
                return False
        seen = set(re.findall(r"kept-(s\d+t\d+m\d+(?:r\d+)?)", answer))
        missing = [token for token in self._kept if token not in seen]
        if missing:
            await self._files_are_missing(message, missing)
        self._kept.append(message.token)
        return True

    def _complain(self, text: str) -> None:
        self.record.complaints.append(text)
        self._shared.trace.add("user", "complaint", self.session_id, text)
        print(f"complaint of {self.session_id}: {text}", flush=True)

    async def _files_are_missing(self, message: Message, missing: list[str]) -> None:
        unexplained = [
            token
            for token in missing
            if not await self._shared.files_destroyed(self.session_id, self._sent_at[token])
        ]
        if unexplained:
            self._complain(f"{message.token}: files are gone without a reason: {unexplained}")
        else:
            self.record.files_lost += 1
            if not self._shared.deletions.of(self.session_id):
                unreported = await unreported_loss(
                    lambda: self._shared.resource(self.session_id),
                    report_seconds=_REPORT_SECONDS,
                    patience_seconds=PATIENCE_SECONDS,
                )
                if unreported:
                    self._complain(f"{message.token}: files are gone and {unreported}")
        self._kept = [token for token in self._kept if token not in missing]

    async def _give_up(self, report: SessionReport, messages: tuple[Message, ...]) -> None:
        lost = [message.token for message in messages if not is_closed(report, message)]
        resource = await self._shared.resource(self.session_id) or {}
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
                # The agent still runs.
                await asyncio.sleep(0.5)
            else:
                self._shared.trace.add("user", "session deleted", self.session_id)
                return


async def unreported_loss(
    read: Callable[[], Awaitable[dict[str, Any] | None]], *, report_seconds: float, patience_seconds: float
) -> str:
    """Wait until `WorkspaceLost` is True. Return what is wrong if it does not become so, else an empty text.

    Args:
        read: reads the resource. None: the API server did not answer.
        report_seconds: how long an API server that answers may report otherwise. The time starts again after
            each missing answer, because the operator could not write either.
        patience_seconds: timeout of the whole wait.
    """
    began = time.monotonic()
    otherwise_since: float | None = None
    while True:
        resource = await read()
        now = time.monotonic()
        if resource is None:
            otherwise_since = None
        elif condition(resource, "WorkspaceLost").get("status") == "True":
            return ""
        else:
            otherwise_since = now if otherwise_since is None else otherwise_since
            if now - otherwise_since >= report_seconds:
                return "WorkspaceLost is not True"
        if now - began >= patience_seconds:
            return f"WorkspaceLost was not seen to be True in {patience_seconds:g} s"
        await asyncio.sleep(_POLL_SECONDS)


def _asks_for_interrupt(reason: str) -> bool:
    try:
        return _INTERRUPT in REASONS[Reason(reason)].remedy
    except (ValueError, KeyError):
        return False
