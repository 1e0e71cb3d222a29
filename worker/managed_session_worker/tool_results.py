"""Delivers tool results: retries where the API does not know a call yet, and runs no call twice."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from anthropic import AnthropicError
from anthropic import Middleware as SDKMiddleware
from anthropic.lib.tools import ToolError

from managed_session_worker.worker_log import logger
from managed_session_worker.wrapped_tool import WrappedTool

PATIENCE_SECONDS = 10.0
"""How long to send a refused result again while its session still waits for it."""
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0
INTERRUPTED = "the user interrupted this call while it ran"
"""The result of an interrupted call, should the session wait for it nevertheless."""
_EVENTS = re.compile(r"/v1/sessions/[^/]+/events$")
_TEMPORARY = frozenset({400, 404, 422})
""""does not match any agent.tool_use event" (anthropic-sdk-python#1744), and what else may mean "not yet"."""


class RetryingResults(SDKMiddleware):
    """Sends a refused result again for some seconds.

    The SDK takes such a refusal as final. But for the call of a sub-agent's thread it may be temporary: the
    call reaches the event stream before the API accepts a result for it.
    """

    def __init__(self, still_open: Callable[[str], Awaitable[bool]]) -> None:
        """Take the function that asks whether the session still waits for the result of a call."""
        self._still_open = still_open

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on; repeat a post of results that is refused."""
        response = await call_next(request)
        path = str(request.url).split("?", 1)[0]
        calls = answered_calls(request.json) if request.method.lower() == "post" else []
        if not calls or not _EVENTS.search(path):
            return response
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + PATIENCE_SECONDS, _FIRST_PAUSE_SECONDS
        while response.status_code in _TEMPORARY and loop.time() + pause < deadline:
            await asyncio.sleep(pause)
            if not await self._all_open(calls):
                break
            logger.warning("a result was answered %d; sending it again", response.status_code)
            await response.close()
            response = await call_next(request)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        return response

    async def _all_open(self, calls: list[str]) -> bool:
        try:
            return all([await self._still_open(call) for call in calls])
        except AnthropicError as error:
            logger.warning("could not find out whether a result is still wanted: %s", type(error).__name__)
            return True


def answered_calls(body: object) -> list[str]:
    """Return the IDs of the tool calls that a request's body has results for."""
    return [identifier for identifier, _ in results_of(body)]


def results_of(body: object) -> list[tuple[str, bool]]:
    """Return the results in a request's body: the call's ID, and whether the tool failed."""
    events = body.get("events") if isinstance(body, dict) else None
    found = []
    for event in events if isinstance(events, list) else []:
        identifier = event.get("tool_use_id") or event.get("custom_tool_use_id")
        if identifier:
            found.append((str(identifier), event.get("is_error") is True))
    return found


class CompletedCalls:
    """Remembers the outcomes of calls until they are delivered, so that no call is executed twice.

    When its event stream has reconnected, the SDK runs every call that has no result in the history, even if
    it has run that call already. It then gets the same result again.
    """

    def __init__(
        self,
        current_call: Callable[[], str | None],
        delivered: Callable[[str], bool],
        is_cut: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Take the functions that know the state of calls.

        Args:
            current_call: Returns the ID of the call that the SDK executes in this task.
            delivered: Returns whether a call's result has been delivered.
            is_cut: Returns whether a running call is being ended because nobody waits for it any more.
        """
        self._current_call = current_call
        self._delivered = delivered
        self._is_cut = is_cut
        self._ended: dict[str, Any] = {}

    def once(self, tools: Sequence[Any]) -> list[Any]:
        """Wrap the tools so that they run each call once."""
        return [_OnceTool(tool, self) for tool in tools]

    async def run(self, tool: Any, arguments: Any) -> Any:
        """Run the current call, or repeat its earlier outcome if it has run before."""
        call = self._current_call()
        for known in [each for each in self._ended if self._delivered(each)]:
            del self._ended[known]
        if call is None:
            return await tool.call(arguments)
        if call not in self._ended:
            self._ended[call] = await self._outcome(tool, arguments, call)
        else:
            logger.warning("tool call has run already; repeating its result tool_use_id=%s", call)
        outcome = self._ended[call]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _outcome(self, tool: Any, arguments: Any, call: str) -> Any:
        try:
            return await tool.call(arguments)
        except Exception as error:  # noqa: BLE001 - the SDK turns any exception of a tool into a result
            return error
        except asyncio.CancelledError:
            # The SDK cancels a call that takes too long; this is its own message.
            cut = self._is_cut(call)
            self._ended[call] = ToolError(INTERRUPTED if cut else f"tool {tool.name!r} timed out")
            raise


class _OnceTool(WrappedTool):
    """Wraps a tool for the SDK, and runs each of its calls once."""

    def __init__(self, tool: Any, completed_calls: CompletedCalls) -> None:
        super().__init__(tool)
        self._completed_calls = completed_calls

    async def call(self, input: object) -> Any:  # noqa: A002 - the SDK's name
        return await self._completed_calls.run(self._tool, input)
