"""Reads the answers to a user's messages from Anthropic's report of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .plan import Message

if TYPE_CHECKING:
    from managed_session_devkit.simulators.anthropic.client import SessionReport


def _turn_of(report: SessionReport, message: Message) -> Any:
    sent = next(
        (e["id"] for e in report.events if e["type"] == "user.message" and _text(e) == message.text), None
    )
    return next((turn for turn in report.turns if turn.message_id == sent), None)


def is_closed(report: SessionReport, message: Message) -> bool:
    """Return whether a message is answered or interrupted."""
    turn = _turn_of(report, message)
    return turn is not None and (turn.answered_at is not None or turn.interrupted_at is not None)


def is_answered(report: SessionReport, message: Message) -> bool:
    """Return whether the message's turn has ended with an answer."""
    turn = _turn_of(report, message)
    return turn is not None and turn.answered_at is not None


def answer_to(report: SessionReport, message: Message) -> str | None:
    """Return the agent's answer, or None if it is incomplete."""
    wanted = f"done-{message.token}"
    texts = (_text(event) for event in report.events if event["type"] == "agent.message")
    return next((text for text in texts if text.endswith(wanted)), None)


def last_answer(report: SessionReport, message: Message) -> str:
    """Return the end of the newest answer, for people."""
    last = [_text(event) for event in report.events if event["type"] == "agent.message"][-1:]
    return f"{message.token}: {last[0][-200:] if last else 'nothing'}"


def _text(event: dict[str, Any]) -> str:
    blocks = event.get("content") or []
    return "\n".join(block.get("text", "") for block in blocks if block.get("type") == "text").strip()
