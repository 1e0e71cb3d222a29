"""Keeps a worker from acting after a pause that its lease did not survive, until it knows who serves now.

A worker that waits for its session's user may be frozen with its sandbox for days. Its lease lapses
meanwhile, and Anthropic usually queues the work again. When the sandbox is resumed, the SDK must not stop the
queued item as it leaves, and no call may run that another worker is about to run.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from anthropic import Middleware as SDKMiddleware
from anthropic.types.beta.environments import BetaSelfHostedWork, BetaSelfHostedWorkHeartbeatResponse

from managed_session_worker.late_messages import LEASE_CALL
from managed_session_worker.wrapped_tool import WrappedTool


class LeaseCallsHeldBack(SDKMiddleware):
    """Answers the SDK's heartbeats and stops itself while they are held back.

    Args:
        holds: Whether they are.
    """

    def __init__(self, holds: Callable[[], bool]) -> None:
        self._holds = holds

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Answer a heartbeat or a stop as for a stopped item; pass any other attempt on."""
        found = LEASE_CALL.search(str(request.url).split("?", 1)[0])
        if found is None or not self._holds():
            return await call_next(request)
        if found[1] == "stop":
            return BetaSelfHostedWork.model_construct(state="stopped")
        return BetaSelfHostedWorkHeartbeatResponse.model_construct(
            type="work_heartbeat", last_heartbeat="", lease_extended=False, state="stopped", ttl_seconds=0
        )


def held_back(tools: Sequence[Any], holds: Callable[[], bool]) -> list[Any]:
    """Wrap the tools so that no call begins while calls are held back. The SDK is leaving then."""
    return [_HeldBackTool(tool, holds) for tool in tools]


class _HeldBackTool(WrappedTool):
    """Wraps a tool for the SDK, and begins no call while calls are held back."""

    def __init__(self, tool: Any, holds: Callable[[], bool]) -> None:
        super().__init__(tool)
        self._holds = holds

    async def call(self, input: object) -> Any:  # noqa: A002 - the SDK's name
        if self._holds():
            await asyncio.get_running_loop().create_future()
        return await self._tool.call(input)
