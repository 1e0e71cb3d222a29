"""The scripted agent: it takes up user messages, asks for tool calls, waits for results and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .ledger import Ledger
from .scripts import ScriptBook, Step, ToolRequest, fill
from .session import Session, ToolCall
from .settings import AgentSettings


def text_of(event: dict[str, Any]) -> str:
    """Return the text blocks of an event, joined."""
    blocks = event.get("content") or []
    return "\n".join(block.get("text", "") for block in blocks if block.get("type") == "text")


class ScriptedAgent:
    """Runs one turn at a time per session; an idle session holds no task."""

    def __init__(self, scripts: ScriptBook, settings: Callable[[], AgentSettings], ledger: Ledger) -> None:
        self._scripts = scripts
        self._settings = settings
        self._ledger = ledger
        self._turns: dict[str, asyncio.Task[None]] = {}

    def wake(self, session: Session) -> None:
        """Take up the session's inbox, unless a turn is at work on it."""
        if session.id in self._turns or not session.inbox or session.status == "terminated":
            return
        session.run()
        task = asyncio.create_task(self._work(session), name=f"agent {session.id}")
        self._turns[session.id] = task
        task.add_done_callback(lambda done: self._ended(session, done))

    def _ended(self, session: Session, task: asyncio.Task[None]) -> None:
        if self._turns.get(session.id) is task:
            del self._turns[session.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._ledger.script_mismatch(session.id, f"the script failed: {error!r}")
            session.append({"type": "session.error", "error": _unknown_error(str(error))})
            session.terminate()

    def cancel(self, session: Session) -> None:
        """Break off whatever the agent does in this session."""
        task = self._turns.pop(session.id, None)
        if task is not None:
            task.cancel()
        session.drop_waiting()

    def interrupt(self, session: Session) -> None:
        """End the present turn without an answer, then take up what else is in the inbox."""
        busy = session.id in self._turns
        self.cancel(session)
        if busy:
            self._ledger.turn_interrupted(session.id)
            session.end_turn()
        self.wake(session)

    async def _work(self, session: Session) -> None:
        while session.inbox:
            message = session.inbox.pop(0)
            session.mark_processed(message)
            session.run()
            name, steps = self._scripts.steps_for(text_of(message))
            self._ledger.note(session.id, "turn_started", message_id=message["id"], script=name)
            stop_reason = await self._play(session, steps)
            if session.status == "terminated":
                return
            self._ledger.turn_answered(session.id, message["id"])
            session.end_turn(stop_reason)

    async def _play(self, session: Session, steps: list[Step]) -> str:
        result = ""
        for step in steps:
            await asyncio.sleep(self._settings().thinking.sample_seconds())
            if step.tools is not None:
                result = await self._call_tools(session, step.tools)
            elif step.say is not None:
                content = [{"type": "text", "text": fill(step.say, {"result": result})}]
                session.append({"type": "agent.message", "content": content})
            elif step.sleep_ms is not None:
                await asyncio.sleep(step.sleep_ms / 1000)
            elif step.reschedule_ms is not None:
                session.reschedule()
                await asyncio.sleep(step.reschedule_ms / 1000)
                session.run()
            elif step.stop is not None:
                return step.stop
            elif step.terminate:
                session.append({"type": "session.error", "error": _unknown_error("terminated by its script")})
                session.terminate()
                return "end_turn"
        return "end_turn"

    async def _call_tools(self, session: Session, requests: list[ToolRequest]) -> str:
        open_calls: list[tuple[ToolRequest, str, asyncio.Future[dict[str, Any]]]] = []
        for request in requests:
            event = session.append(_tool_use(request))
            self._ledger.tool_used(session.id, event["id"], request.tool)
            if request.permission == "deny" and not request.custom:
                continue
            answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            confirmed = request.custom or request.permission == "allow"
            session.waiting[event["id"]] = ToolCall(event["id"], request.custom, confirmed, answered)
            open_calls.append((request, event["id"], answered))
        text = ""
        if open_calls:
            session.require_action()
        for request, event_id, answered in open_calls:
            result = await answered
            if result["type"] == "user.tool_confirmation":
                text = result.get("deny_message") or "denied"
                continue
            text = text_of(result).rstrip("\n")
            wrong = request.mismatch(text, is_error=bool(result.get("is_error")))
            if wrong is not None:
                self._ledger.script_mismatch(session.id, wrong, tool_use_id=event_id, result=text[:2000])
        return text

    async def close(self) -> None:
        """Cancel every turn."""
        tasks = list(self._turns.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tool_use(request: ToolRequest) -> dict[str, Any]:
    if request.custom:
        return {
            "type": "agent.custom_tool_use",
            "name": request.tool,
            "input": request.input,
            "session_thread_id": None,
        }
    return {
        "type": "agent.tool_use",
        "name": request.tool,
        "input": request.input,
        "evaluated_permission": request.permission,
        "session_thread_id": None,
    }


def _unknown_error(message: str) -> dict[str, Any]:
    return {"type": "unknown_error", "message": message, "retry_status": {"type": "terminal"}}
