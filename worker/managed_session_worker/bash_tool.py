"""The `bash` tool of the agent's toolset: the SDK's inputs and answers, on shells that outlive the worker.

Unlike the SDK's tool, background processes live on, each thread has a shell of its own, and a shell that has
ended is replaced (see `shell_host`). The other tools are the SDK's.
"""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Optional, Protocol, cast

from anthropic.lib.tools import ToolError, beta_async_tool
from anthropic.lib.tools.agent_toolset import (
    BASH_DEFAULT_TIMEOUT,
    AgentToolContext,
    beta_agent_toolset_20260401,
)
from anthropic.types.beta import BetaManagedAgentsAgentToolset20260401BashInput

from managed_session_worker.call_context import calling_thread, calling_tool_use
from managed_session_worker.command_output import BACKGROUND_OUTPUT_BYTES
from managed_session_worker.shell_client import ShellsLostError
from managed_session_worker.shell_wire import Document

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Escape sequences, which the SDK's tool removes from results too."""
_NEXT = "the next command gets a new shell"
_LOST = "it is gone with its process or with its sandbox"


class Shells(Protocol):
    """Where commands run."""

    async def ask(self, request: Document, seconds: float = 0.0) -> Document:
        """Send one request and return its answer; see `ShellClient.ask`."""


def agent_toolset(
    context: AgentToolContext, shells: Shells, had_results: Callable[[str], bool] = lambda _: False
) -> list[Any]:
    """Return the SDK's toolset with our `bash`; for the arguments see `bash_tool`."""
    others = [tool for tool in beta_agent_toolset_20260401(context) if tool.name != "bash"]
    return [bash_tool(context, shells, had_results), *others]


class BashCalls:
    """Answers calls of `bash`. Those of one thread come one after the other."""

    def __init__(self, context: AgentToolContext, shells: Shells, had_results: Callable[[str], bool]) -> None:
        self._context = context
        self._shells = shells
        self._had_results = had_results
        self._used: set[str] = set()
        """The threads whose shells this worker has used."""

    async def answer(self, command: str | None, *, restart: bool, timeout_ms: int | None) -> str:
        """Run one call and return the text of its result.

        Raises:
            ToolError: The call failed; the error's text is the result.
        """
        thread = calling_thread.get()
        if restart:
            await self._ask(thread, {"do": "restart"})
            self._used.add(thread)
            return "bash session restarted"
        if not command:
            raise ToolError("bash: command is required")
        seconds = timeout_ms / 1000.0 if timeout_ms else BASH_DEFAULT_TIMEOUT
        had_shell = thread in self._used or self._had_results(thread)
        outcome = await self._ask(thread, {"do": "run", "command": command, "seconds": seconds}, seconds)
        self._used.add(thread)
        lines = [self._about_new_shell(outcome, had_shell), *_text_of(outcome)]
        if outcome["timedOut"]:
            first = f"bash: bash command timed out after {seconds}s"
            lines = [first, *lines, f"[the command was killed with what it had started; {_NEXT}]"]
        elif outcome["ended"]:
            lines.append(f"[the shell has ended: {outcome['ended']}; {_NEXT}]")
        text = "\n".join(filter(None, lines))
        if outcome["timedOut"] or outcome["status"] != 0:
            raise ToolError(text)
        return text

    async def _ask(self, thread: str, request: Document, seconds: float = 0.0) -> Document:
        call = {
            "thread": thread,
            "call": calling_tool_use.get(),
            "workdir": os.fspath(self._context.workdir),
            "environment": self._environment(),
        }
        try:
            answer = await self._shells.ask({**call, **request}, seconds)
        except ShellsLostError as error:
            self._used.add(thread)
            raise ToolError(f"[the shell has ended: {error}; {_NEXT}]") from None
        if "error" in answer:
            raise ToolError(f"bash: {answer['error']}")
        return answer

    def _about_new_shell(self, outcome: Document, had_shell: bool) -> str:
        """Return a line for the result if the shell is not the one of the thread's earlier calls."""
        ended = outcome["before"] or (_LOST if had_shell else "")
        if not outcome["new"] or not ended:
            return ""
        return (
            f"[a new shell in {os.fspath(self._context.workdir)}: the one before has ended ({ended}), "
            "and its variables and functions with it]"
        )

    def _environment(self) -> dict[str, str]:
        if self._context.env is not None:
            return dict(self._context.env)
        return {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}


def _text_of(outcome: Document) -> list[str]:
    """Return a command's output, and a line about the output of its background processes."""
    text = _ANSI.sub("", outcome["output"]).rstrip("\n")
    lines = ["[output truncated]" if outcome["truncated"] else "", text]
    if outcome["background"] is not None and outcome["backgroundKept"]:
        lines.append(
            f"[processes go on in the background; their output: {outcome['background']} "
            f"(the first {BACKGROUND_OUTPUT_BYTES // 1024**2} MiB)]"
        )
    elif outcome["background"] is not None:
        lines.append("[processes go on in the background; their output is lost: no file could be written]")
    return lines


def bash_tool(
    context: AgentToolContext, shells: Shells, had_results: Callable[[str], bool] = lambda _: False
) -> Any:
    """Return the tool.

    Args:
        context: Directory and variables of new shells.
        shells: Where commands run.
        had_results: Says whether calls of `bash` of a thread have had results, in this sandbox or another.
    """

    @asynccontextmanager
    async def tool() -> AsyncIterator[Callable[..., Awaitable[str]]]:
        """Run a command in a persistent bash shell."""
        calls = BashCalls(context, shells, had_results)

        # `Optional`: the SDK's decorator evaluates these annotations at run time.
        async def bash(
            command: Optional[str] = None,  # noqa: UP045
            restart: Optional[bool] = None,  # noqa: UP045
            timeout_ms: Optional[int] = None,  # noqa: UP045
        ) -> str:
            return await calls.answer(command, restart=bool(restart), timeout_ms=timeout_ms)

        yield bash

    decorate = beta_async_tool(name="bash", input_schema=BetaManagedAgentsAgentToolset20260401BashInput)
    return decorate(cast("Any", tool))
