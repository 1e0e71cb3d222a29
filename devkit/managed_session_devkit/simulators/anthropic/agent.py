"""The scripted agent: it reads user messages, requests tool calls, waits for results and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from managed_session_devkit.simulators.anthropic.ledger import Ledger
from managed_session_devkit.simulators.anthropic.scripts import ScriptBook, Step, ToolRequest, fill
from managed_session_devkit.simulators.anthropic.session import Session, ToolCall
from managed_session_devkit.simulators.anthropic.settings import AgentSettings
from managed_session_devkit.simulators.anthropic.threads import Thread

_TERMINATED = "terminated"
"""Marks the end of a thread whose steps terminate it."""


def text_of(event: dict[str, Any]) -> str:
    """Return the text blocks of an event, joined."""
    blocks = event.get("content") or []
    return "\n".join(block.get("text", "") for block in blocks if block.get("type") == "text")


class ScriptedAgent:
    """Runs one turn at a time per session. An idle session has no task."""

    def __init__(
        self,
        scripts: ScriptBook,
        settings: Callable[[], AgentSettings],
        ledger: Ledger,
        queue_work: Callable[[Session], object],
    ) -> None:
        self._scripts = scripts
        self._queue_work = queue_work
        self._settings = settings
        self._ledger = ledger
        self._turns: dict[str, asyncio.Task[None]] = {}

    def wake(self, session: Session) -> None:
        """Start on the session's inbox, unless a turn is already running."""
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
        """Stop what the agent does in this session."""
        task = self._turns.pop(session.id, None)
        if task is not None:
            task.cancel()
        session.drop_waiting()
        session.usage.paused = False
        for thread in list(session.threads):
            thread.end()

    def interrupt(self, session: Session, thread_id: str | None = None) -> None:
        """End the current turn without an answer, then go on with the inbox; or end only one thread."""
        if thread_id is not None:
            for thread in [each for each in session.threads if each.id == thread_id]:
                thread.interrupt()
            return
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

    async def _play(self, session: Session, steps: list[Step], thread: Thread | None = None) -> str:
        result = ""
        for step in steps:
            await asyncio.sleep(self._settings().thinking.sample_seconds())
            if step.tools is not None or step.say is not None:
                await self._request(session)
            if step.tools is not None:
                result = await self._call_tools(session, step.tools, thread)
            elif step.say is not None:
                content = [{"type": "text", "text": fill(step.say, {"result": result})}]
                session.append({"type": "agent.message", "content": content})
            elif step.stop is not None:
                return step.stop
            elif step.terminate and thread is not None:
                return _TERMINATED
            elif step.terminate:
                session.append({"type": "session.error", "error": _unknown_error("terminated by its script")})
                session.terminate()
                return "end_turn"
            else:
                await self._play_silent_step(session, step)
        return "end_turn"

    async def _request(self, session: Session) -> None:
        """Pay for a model request. If the session's budget is used up, pause until it is raised."""
        usage = session.usage
        while usage.spent:
            session.budget_changed.clear()
            if not usage.paused:
                usage.paused = True
                session.end_turn("budget_reached")
            await session.budget_changed.wait()
        usage.cents += self._settings().cents_per_request

    def go_on(self, session: Session) -> None:
        """Continue a session that its budget had paused, after the budget was changed."""
        if session.usage.paused and not session.usage.spent:
            session.usage.paused = False
            session.run()
            if self._settings().raised_budget_queues_work:
                self._queue_work(session)
        session.budget_changed.set()

    async def _play_silent_step(self, session: Session, step: Step) -> None:
        """Play a step in which the agent itself does nothing."""
        if step.sleep_ms is not None:
            await asyncio.sleep(step.sleep_ms / 1000)
        elif step.reschedule_ms is not None:
            session.reschedule()
            await asyncio.sleep(step.reschedule_ms / 1000)
            session.run()
        elif step.threads is not None:
            await asyncio.gather(*(self._play_thread(session, each) for each in step.threads))
        elif step.pause_ms is not None:
            await self._pause(session, step.pause_ms / 1000)
        elif step.event is not None:
            session.append(step.event)

    async def _play_thread(self, session: Session, steps: list[Step]) -> None:
        thread = Thread(session, "helper")
        thread.begin()
        thread.steps = asyncio.create_task(self._play(session, steps, thread))
        try:
            # Waited for without cancelling: only an interrupt of this thread does that.
            await asyncio.wait([thread.steps])
        finally:
            thread.steps.cancel()
        reason = "end_turn" if thread.steps.cancelled() else thread.steps.result()
        if reason == _TERMINATED:
            thread.terminate()
        else:
            thread.end(reason)

    async def _pause(self, session: Session, seconds: float) -> None:
        """Pause as a workflow does: the session goes idle, and later runs by itself and queues work."""
        run = {"workflow_run_id": f"wfrun_{session.id}"}
        session.append({"type": "workflow_run.status_idle", **run})
        session.end_turn()
        await asyncio.sleep(seconds)
        session.append({"type": "workflow_run.status_running", **run})
        session.run()
        self._queue_work(session)

    async def _call_tools(
        self, session: Session, requests: list[ToolRequest], thread: Thread | None = None
    ) -> str:
        open_calls: list[tuple[ToolRequest, str, asyncio.Future[dict[str, Any]]]] = []
        for request in requests:
            event = session.append({**_tool_use(request), "session_thread_id": thread and thread.id})
            self._ledger.tool_used(session.id, event["id"], request.tool)
            if request.permission == "deny" and not request.custom:
                continue
            answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            confirmed = request.custom or request.permission == "allow"
            session.waiting[event["id"]] = ToolCall(event["id"], request.custom, confirmed, answered, thread)
            open_calls.append((request, event["id"], answered))
        text = ""
        if open_calls:
            (thread or session).require_action()
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
        }
    return {
        "type": "agent.tool_use",
        "name": request.tool,
        "input": request.input,
        "evaluated_permission": request.permission,
    }


def _unknown_error(message: str) -> dict[str, Any]:
    return {"type": "unknown_error", "message": message, "retry_status": {"type": "terminal"}}
