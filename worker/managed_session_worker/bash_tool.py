"""The `bash` tool of the agent's toolset: the SDK's inputs and answers, on our own shell.

Unlike the SDK's tool, background processes live on, and a shell that has ended is replaced (see `shell`). The
other tools are the SDK's.
"""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Optional, cast

from anthropic.lib.tools import ToolError, beta_async_tool
from anthropic.lib.tools.agent_toolset import (
    BASH_DEFAULT_TIMEOUT,
    BASH_OUTPUT_LIMIT,
    AgentToolContext,
    beta_agent_toolset_20260401,
)
from anthropic.types.beta import BetaManagedAgentsAgentToolset20260401BashInput

from managed_session_worker.command_output import BACKGROUND_OUTPUT_BYTES, OutputFolder
from managed_session_worker.shell import CommandTimeoutError, Outcome, Shell

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Escape sequences, which the SDK's tool removes from results too."""


def agent_toolset(context: AgentToolContext) -> list[Any]:
    """Return the SDK's toolset with our `bash`."""
    others = [tool for tool in beta_agent_toolset_20260401(context) if tool.name != "bash"]
    return [bash_tool(context), *others]


class BashCalls:
    """Answers calls of `bash`, one at a time. Starts the shell when it is needed."""

    def __init__(self, context: AgentToolContext) -> None:
        self._context = context
        self._folder = OutputFolder(os.fspath(context.workdir))
        self._shell: Shell | None = None
        self._ended = ""
        self._number = 0

    async def answer(self, command: str | None, *, restart: bool, timeout_ms: int | None) -> str:
        """Run one call and return the text of its result.

        Raises:
            ToolError: The call failed; the error's text is the result.
        """
        if restart:
            self._end_shell()
            self._ended = ""
            self._start_shell()
            return "bash session restarted"
        if not command:
            raise ToolError("bash: command is required")
        new = self._replace_ended_shell()
        seconds = timeout_ms / 1000.0 if timeout_ms else BASH_DEFAULT_TIMEOUT
        self._number += 1
        try:
            outcome = await self._start_shell().run(self._number, command, seconds)
        except CommandTimeoutError as error:
            self._end_shell()
            self._ended = "its command timed out"
            lines = [f"bash: bash command timed out after {seconds}s", new, *_text_of(error.outcome)]
            lines.append(
                "[the command was killed with what it had started; the next command gets a new shell]"
            )
            raise ToolError("\n".join(filter(None, lines))) from None
        except OSError as error:
            raise ToolError(f"bash: {error.strerror or error}") from error
        lines = [new, *_text_of(outcome)]
        if outcome.ended:
            lines.append(f"[the shell has ended: {outcome.ended}; the next command gets a new shell]")
        text = "\n".join(filter(None, lines))
        if outcome.status != 0:
            raise ToolError(text)
        return text

    def close(self) -> None:
        """End the shell; its background processes live on."""
        self._end_shell()
        self._folder.remove_if_empty()

    def _replace_ended_shell(self) -> str:
        """Discard a shell that has ended; return a line about it for the result."""
        if self._shell is not None and self._shell.ended:
            self._end_shell()
        ended, self._ended = self._ended, ""
        if not ended:
            return ""
        return (
            f"[a new shell in {os.fspath(self._context.workdir)}: the one before has ended ({ended}), "
            "and its variables and functions with it]"
        )

    def _start_shell(self) -> Shell:
        if self._shell is None:
            self._shell = Shell(
                os.fspath(self._context.workdir),
                self._environment(),
                self._folder,
                limit=BASH_OUTPUT_LIMIT,
            )
        return self._shell

    def _end_shell(self) -> None:
        if self._shell is not None:
            self._ended = self._shell.ended
            self._shell.close()
            self._shell = None

    def _environment(self) -> dict[str, str]:
        if self._context.env is not None:
            return dict(self._context.env)
        return {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}


def _text_of(outcome: Outcome) -> list[str]:
    """Return a command's output, and a line about the output of its background processes."""
    text = _ANSI.sub("", outcome.output.decode(errors="replace")).rstrip("\n")
    lines = ["[output truncated]" if outcome.truncated else "", text]
    if outcome.background is not None and outcome.background_kept:
        lines.append(
            f"[processes go on in the background; their output: {outcome.background} "
            f"(the first {BACKGROUND_OUTPUT_BYTES // 1024**2} MiB)]"
        )
    elif outcome.background is not None:
        lines.append("[processes go on in the background; their output is lost: no file could be written]")
    return lines


def bash_tool(context: AgentToolContext) -> Any:
    """Return the tool for `context`. The SDK's runner closes it when the worker ends normally."""

    @asynccontextmanager
    async def tool() -> AsyncIterator[Callable[..., Awaitable[str]]]:
        """Run a command in a persistent bash shell."""
        calls = BashCalls(context)

        # `Optional`: the SDK's decorator evaluates these annotations at run time.
        async def bash(
            command: Optional[str] = None,  # noqa: UP045
            restart: Optional[bool] = None,  # noqa: UP045
            timeout_ms: Optional[int] = None,  # noqa: UP045
        ) -> str:
            return await calls.answer(command, restart=bool(restart), timeout_ms=timeout_ms)

        try:
            yield bash
        finally:
            calls.close()

    decorate = beta_async_tool(name="bash", input_schema=BetaManagedAgentsAgentToolset20260401BashInput)
    return decorate(cast("Any", tool))
