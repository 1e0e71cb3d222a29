"""The demo's user: begins sessions, sends messages, and reports what comes back."""

import json
from contextlib import AsyncExitStack
from typing import Any

from managed_session_cli.conversation import Conversation, text_of

from managed_session_devkit.demo.demo_log import DemoLog
from managed_session_devkit.system.local_system import LocalSystem


async def begin(
    system: LocalSystem,
    log: DemoLog,
    stack: AsyncExitStack,
    title: str,
    metadata: dict[str, str] | None = None,
) -> Conversation:
    """Create a session, and join it until the stack ends."""
    session = await system.user.beta.sessions.create(
        agent=system.agent_id,
        environment_id=system.clouds.environment_id,
        title=title,
        metadata=metadata or {},
    )
    said = f" with metadata {json.dumps(metadata)}" if metadata else ""
    log.happened("user", f"session {session.id} created{said}")
    return await stack.enter_async_context(
        Conversation.join(system.user, session.id, on_event=lambda event: _report_event(log, event))
    )


async def send(log: DemoLog, conversation: Conversation, text: str) -> str:
    """Send a message, and return the agent's answer (raises as `Conversation.say`)."""
    log.happened("user", f"sends: {text}")
    return await conversation.say(text)


def _report_event(log: DemoLog, event: Any) -> None:
    if event.type == "agent.tool_use":
        log.happened("agent", f"asks for {event.name} {json.dumps(event.input)}")
    elif event.type == "user.tool_result":
        log.happened("worker", f"posts the result: {_short(text_of(event))}")
    elif event.type == "agent.message":
        log.happened("agent", f"answers: {_short(text_of(event))}")
    elif event.type == "session.status_idle" and event.stop_reason.type != "requires_action":
        log.happened("agent", f"session idle ({event.stop_reason.type})")


def _short(text: str) -> str:
    return text.replace("\n", " ")[:120]
