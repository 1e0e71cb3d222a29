"""Answers calls that wait for a person, some time after they were made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anthropic

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from managed_session_devkit.simulators.anthropic.client import SessionReport


class LateAnswers:
    """The answers of one session's user.

    Attributes:
        given: number of answers.
    """

    def __init__(self, client: AsyncAnthropic, session_id: str) -> None:
        self.given = 0
        self._client = client
        self._session_id = session_id
        self._seen: dict[str, float] = {}
        self._answered: set[str] = set()

    async def give(self, report: SessionReport, after_seconds: float) -> None:
        """Answer the calls that have waited for so long."""
        now = time.monotonic()
        for call in waiting_for_a_person(report):
            waited = now - self._seen.setdefault(call["id"], now)
            if call["id"] in self._answered or waited < after_seconds:
                continue
            self._answered.add(call["id"])
            events: Any = [answer_to_call(call)]
            try:
                await self._client.beta.sessions.events.send(self._session_id, events=events)
            except anthropic.BadRequestError:
                # An interrupt has ended the wait meanwhile.
                continue
            self.given += 1


def waiting_for_a_person(report: SessionReport) -> list[dict[str, Any]]:
    """Return the events of the calls that wait for a person, and not for a worker."""
    confirmed = {event["tool_use_id"] for event in report.events if event["type"] == "user.tool_confirmation"}
    return [
        event
        for event in report.events
        if event["id"] in report.waiting_for
        and event["id"] not in confirmed
        and (event["type"] == "agent.custom_tool_use" or event.get("evaluated_permission") == "ask")
    ]


def answer_to_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return the event by which a person answers a call."""
    if call["type"] == "agent.custom_tool_use":
        content = [{"type": "text", "text": "approved"}]
        return {"type": "user.custom_tool_result", "custom_tool_use_id": call["id"], "content": content}
    return {"type": "user.tool_confirmation", "tool_use_id": call["id"], "result": "allow"}
