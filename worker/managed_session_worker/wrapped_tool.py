"""Wraps a tool of the SDK, for classes that change how its calls are run."""

from typing import Any

from anthropic.lib.tools import BetaAsyncBuiltinFunctionTool
from anthropic.lib.tools._beta_functions import aclose_runnable_tool


class WrappedTool(BetaAsyncBuiltinFunctionTool):
    """Has the wrapped tool's name and description, and closes it."""

    def __init__(self, tool: Any) -> None:
        self._tool = tool

    @property
    def name(self) -> str:
        """The wrapped tool's name."""
        return str(self._tool.name)

    def to_dict(self) -> Any:
        """Return the wrapped tool's definition."""
        return self._tool.to_dict()

    async def aclose(self) -> None:
        """Close the wrapped tool."""
        await aclose_runnable_tool(self._tool)
