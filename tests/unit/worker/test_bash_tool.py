"""Our `bash` answers as the SDK's does, wherever the SDK is right."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from anthropic.lib.tools import ToolError
from anthropic.lib.tools._beta_functions import aclose_runnable_tool
from anthropic.lib.tools.agent_toolset import (
    BASH_OUTPUT_LIMIT,
    AgentToolContext,
    beta_agent_toolset_20260401,
    beta_bash_tool,
)
from managed_session_worker.bash_tool import agent_toolset, bash_tool

from ...support.waiting import eventually
from .local_shells import local_shells

Answers = list[tuple[str, bool]]


async def _answers(tool: Any, inputs: list[dict[str, Any]]) -> Answers:
    found = []
    try:
        for each in inputs:
            try:
                found.append((str(await tool.call(each)), False))
            except ToolError as error:
                found.append((str(error.content), True))
            except ValueError as error:
                found.append((str(error), True))
    finally:
        await aclose_runnable_tool(tool)
    return found


def answers_of(make: Any, tmp_path: Path, *inputs: dict[str, Any]) -> Answers:
    """Return a tool's results for these calls, in its own folder."""
    workdir = tmp_path / make.__name__ / "workdir"
    workdir.mkdir(parents=True)
    context = AgentToolContext(workdir=workdir, env={"PATH": "/usr/bin:/bin", "GIVEN": "yes"})

    async def answers_of_tool() -> Answers:
        if make is not bash_tool:
            return await _answers(make(context), list(inputs))
        async with local_shells() as shells:
            return await _answers(bash_tool(context, shells), list(inputs))

    answers = asyncio.run(answers_of_tool())
    return [(text.replace(make.__name__, "TOOL"), is_error) for text, is_error in answers]


def both(tmp_path: Path, *inputs: dict[str, Any]) -> tuple[Answers, Answers]:
    """Return the results of the SDK's tool and ours for the same calls."""
    return answers_of(beta_bash_tool, tmp_path, *inputs), answers_of(bash_tool, tmp_path, *inputs)


@pytest.mark.parametrize(
    "commands",
    [
        ["echo hello"],
        ["true", "false", "sh -c 'exit 7'"],
        ["echo out; echo err >&2"],
        ["printf '  leading and trailing  \\n\\n\\n'"],
        ["printf 'no newline'"],
        ["echo $GIVEN $TERM $PS1; env | sort | grep -v ^_="],
        ["cd /tmp; x=1; f() { echo in f; }; alias a=b", "pwd; echo $x; f"],
        ["export Y=2", "sh -c 'echo $Y'"],
        ["cat", "read line; echo $?"],
        ["printf '\\033[31mred\\033[0m'", "printf '\\xff\\xfe'", "printf 'a\\0b'"],
        ["cat <<'EOF'\nit's \"quoted\" $HOME `x`\nEOF"],
        ["cat <<EOF | tr a-z A-Z\nabc\nEOF", "echo after"],
        ["for i in 1 2 3; do\n  echo $i\ndone # comment"],
        ["echo a # comment", "# a comment first\necho b"],
        ["nosuchcommand", "echo still here"],
        ["set -- one two; echo $2", "echo $2 $#"],
        ["echo 'ünïcödé ✓'"],
        ["echo a; echo b | tee /dev/stderr; echo c"],
        ["echo one >file; cat file", "ls"],
        ["exec 3>other; echo kept >&3", "echo more >&3; cat other"],
        ["-x"],
        ["(exit 4)", "! true", "false | true", "set -o pipefail; false | true"],
        ["sleep 0.2 & wait; echo $?"],
        ["trap 'echo trapped' USR1; kill -USR1 $$; echo done"],
        ["umask 077; umask", "umask"],
        ["echo $((6*7)); echo ${BASH_VERSION%%.*} ${0##*/} $-"],
        ["kill -9 $$; sleep 1"],
    ],
)
def test_results_are_those_of_the_sdks_tool(tmp_path: Path, commands: list[str]) -> None:
    theirs, ours = both(tmp_path, *({"command": command} for command in commands))
    without_notes = [
        ("\n".join(line for line in text.splitlines() if not line.startswith("[the shell has ended")), failed)
        for text, failed in ours
    ]
    normalised = [("\n".join(text.splitlines()), failed) for text, failed in theirs]
    assert without_notes == normalised


@pytest.mark.parametrize(
    "command",
    [f"head -c {size} /dev/zero | tr '\\0' x; echo end" for size in (1000, 102_000, 103_000, 5_000_000)],
)
def test_long_output_is_cut_as_by_the_sdks_tool(tmp_path: Path, command: str) -> None:
    [(theirs, _)], [(ours, is_error)] = both(tmp_path, {"command": command})
    assert not is_error
    assert ours.startswith("[output truncated]\n") == theirs.startswith("[output truncated]\n")
    assert abs(len(ours) - len(theirs)) < 100, "the SDK's mark of the command's end takes some room"
    assert ours.endswith("xxend")
    assert len(ours) <= BASH_OUTPUT_LIMIT + len("[output truncated]\n")


def test_inputs_are_accepted_as_by_the_sdks_tool(tmp_path: Path) -> None:
    theirs, ours = both(
        tmp_path,
        {},
        {"command": ""},
        {"command": None},
        {"command": "x=1", "timeout_ms": 0},
        {"command": "echo $x", "restart": False},
        {"restart": True},
        {"command": "echo again $x", "timeout_ms": None},
        {"command": "echo given", "restart": True},
        {"command": "echo unknown", "description": "what for"},
        {"command": 5},
    )
    assert ours == theirs


def test_a_timeout_is_reported_as_by_the_sdks_tool(tmp_path: Path) -> None:
    [(theirs, _)], [(ours, is_error)] = both(tmp_path, {"command": "echo begun; sleep 30", "timeout_ms": 300})
    assert is_error
    assert ours.splitlines()[0] == theirs


def test_a_syntax_error_fails_the_command_and_not_the_shell(tmp_path: Path) -> None:
    ours = answers_of(bash_tool, tmp_path, *({"command": text} for text in ("x=1", "if; then", "echo 'a")))
    assert [failed for _, failed in ours] == [False, True, True]
    assert "syntax error" in ours[1][0]
    assert "unexpected EOF" in ours[2][0]
    more = ({"command": "x=1"}, {"command": "if; then"}, {"command": "echo $x"})
    ours = answers_of(bash_tool, tmp_path / "more", *more)
    assert ours[-1] == ("1", False)
    quotes = [{"command": each} for each in ("x=1", "echo 'a", "echo $x", 'echo "$x$(y', "echo $x")]
    ours = answers_of(bash_tool, tmp_path / "quotes", *quotes)
    assert [ours[2], ours[4]] == [("1", False), ("1", False)]


def test_a_call_that_is_cancelled_ends_its_command(tmp_path: Path) -> None:
    async def cancel() -> str:
        async with local_shells() as shells:
            return await cancelled(bash_tool(AgentToolContext(workdir=tmp_path), shells))

    async def cancelled(tool: Any) -> str:
        pid = tmp_path / "pid"

        async def runs() -> bool:
            return pid.exists() and bool(pid.read_text().strip())

        try:
            call = asyncio.create_task(tool.call({"command": f"echo $$ > {pid}; sleep 1000"}))
            await eventually("the command runs", runs)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return str(await tool.call({"command": f"kill -0 $(cat {pid}) 2>/dev/null; echo $?"}))
        finally:
            await aclose_runnable_tool(tool)

    assert asyncio.run(cancel()).splitlines()[-1] == "1"


async def test_all_other_tools_are_the_sdks(tmp_path: Path) -> None:
    context = AgentToolContext(workdir=tmp_path)
    async with local_shells() as shells:
        theirs, ours = beta_agent_toolset_20260401(context), agent_toolset(context, shells)
    assert [tool.name for tool in ours] == [tool.name for tool in theirs]
    assert [tool.to_dict() for tool in ours] == [tool.to_dict() for tool in theirs]
    assert {tool.func.__module__ for tool in ours[1:]} == {theirs[1].func.__module__}
