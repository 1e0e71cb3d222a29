"""Help that reads like kubectl's, and starts quickly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from managed_session_cli.app import app
from managed_session_cli.plain_help import PlainCommand

HEAVY = ("kubernetes", "e2b", "anthropic", "rich", "yaml", "pydantic", "httpx")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands(typer.main.get_command(app)))
OWN = [path for path in ALL if path[0] not in ("demo", "local")]


def shown(*arguments: str, program: str = "managed-sessions") -> str:
    code = (
        f"import sys; sys.argv = ['x', *{list(arguments)!r}]\n"
        f"from managed_session_cli import main\nmain._run({program!r})"
    )
    environment = {**os.environ, "COLUMNS": "100", "FORCE_COLOR": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("path", OWN, ids="-".join)
def test_each_command_is_plain_and_has_a_summary(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert isinstance(command, PlainCommand)
    assert command.help
    if path != ("version",):
        lines = (command.epilog or "").splitlines()
        assert lines, "no example"
        assert all(line.startswith(f"managed-sessions {' '.join(path)}") for line in lines)


def test_help_has_neither_boxes_nor_types_nor_colours() -> None:
    text = shown("--help") + shown("logs", "--help") + shown("template", "build", "--help")
    assert not re.search(r"[╭│╰─\x1b]|<\w+>|\[required\]|\bTEXT\b", text)
    assert "Examples:\n  managed-sessions logs sesn_01AbCdEf\n" in text
    assert "-n, --namespace NAMESPACE" in text
    assert "(default managed-sessions)" in text


def test_help_shows_the_name_by_which_the_program_was_called() -> None:
    text = shown("get", "--help", program="kubectl managedsessions")
    assert "  kubectl managedsessions get --phase Running,Provisioning --watch\n" in text
    assert "Usage:\n  kubectl managedsessions get [SESSION]... [OPTIONS]\n" in text


def test_wrong_arguments_are_named_with_a_way_on() -> None:
    text = shown("get", "--nonsense")
    assert "No such option: --nonsense" in text
    assert "managed-sessions get -h" in text
    assert "retry" in shown("retri"), "a command that is meant is suggested"


def test_help_imports_none_of_the_libraries_that_commands_need() -> None:
    """Each takes a tenth of a second or more."""
    program = f"import sys, managed_session_cli.app; print([m for m in {HEAVY!r} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "[]\n"


def test_commands_are_grouped_by_topic() -> None:
    text = shown("--help")
    topics = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert topics.index("See what sessions do") < topics.index("Install and support")
    assert topics[-2:] == ["Other Commands", "Usage"]
