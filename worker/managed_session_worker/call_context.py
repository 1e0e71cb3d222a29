"""Says, inside a tool, which call of which thread it serves. The runner sets both around each call."""

from contextvars import ContextVar

calling_thread: ContextVar[str] = ContextVar("calling_thread", default="")
"""ID of the thread that has made the call; empty for the session's primary thread."""
calling_tool_use: ContextVar[str | None] = ContextVar("calling_tool_use", default=None)
"""The call's tool use ID; None outside a call."""
