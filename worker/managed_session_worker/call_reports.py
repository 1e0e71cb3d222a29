"""Reports when each tool call began and ended, for the operator's traces and audit.

A report has the call's ID, its tool, two times, whether it failed, and a digest of its input. It never has
the input or the result.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from managed_session_worker.protocol import now
from managed_session_worker.wrapped_tool import WrappedTool

MAX_TEXT = 128
"""The longest ID or name of a tool in a report."""

Report = dict[str, object]


def digest_of(value: object) -> str:
    """Return a digest of a call's input: SHA-256 of its JSON with sorted keys and no spaces, in UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def reported(
    tools: Sequence[Any], running: Callable[[], str | None], report: Callable[[Report], None]
) -> list[Any]:
    """Wrap the tools so that each call is reported when it has ended, also one that was cut off.

    Args:
        tools: The tools for the SDK's runner.
        running: Returns the tool use ID of the call that this task serves.
        report: Sends a report.
    """
    return [_ReportedTool(tool, running, report) for tool in tools]


class _ReportedTool(WrappedTool):
    """Wraps a tool for the SDK, and reports each of its calls."""

    def __init__(
        self, tool: Any, running: Callable[[], str | None], report: Callable[[Report], None]
    ) -> None:
        super().__init__(tool)
        self._running = running
        self._report = report

    async def call(self, input: object) -> Any:  # noqa: A002 - the SDK's name
        identifier = self._running()
        if identifier is None:
            return await self._tool.call(input)
        began, failed = now(), True
        try:
            result = await self._tool.call(input)
            failed = False
        finally:
            self._report(
                {
                    "id": identifier[:MAX_TEXT],
                    "tool": self.name[:MAX_TEXT],
                    "startedAt": began,
                    "endedAt": now(),
                    "isError": failed,
                    "input": digest_of(input),
                }
            )
        return result
