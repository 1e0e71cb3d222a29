"""`managed-sessions completion`, and the completion of `kubectl managedsessions`."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from typing import Annotated, Any

import typer

from managed_session_cli.errors import CommandError

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "managed-sessions"

_COMPLETE = "_MANAGED_SESSIONS_COMPLETE"
_TAKE_FILES = (["--kubeconfig"], ["--download"], ["-d"], ["--file"], ["-f"])
_UNBROKEN = "1000"
"""Columns, so that the library leaves each description on its line."""
_NO_FILES, _FILES = ":4", ":0"
"""kubectl's directives: offer no files, or what the shell would offer by itself."""


def completion(
    shell: Annotated[
        str,
        typer.Argument(
            metavar="SHELL",
            help="bash, zsh or fish.",
            show_default=False,
            autocompletion=lambda: list(SHELLS),
        ),
    ],
) -> None:
    """Print a script that completes commands, options and sessions in a shell.

    bash, in ~/.bashrc: `source <(managed-sessions completion bash)`

    zsh, in ~/.zshrc after compinit: `source <(managed-sessions completion zsh)`

    fish: `managed-sessions completion fish > ~/.config/fish/completions/managed-sessions.fish`

    `kubectl managedsessions` needs no script: kubectl's own completion calls the program
    kubectl_complete-managedsessions, which is installed beside this one.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # noqa: PLC0415

    if shell not in SHELLS:
        raise CommandError(f"there is no completion for {shell}: use one of {', '.join(SHELLS)}.")
    print(get_completion_script(prog_name=PROGRAM, complete_var=_COMPLETE, shell=shell))


def complete_from_environment(app: Any) -> None:
    """Answer the script of a shell if it has asked, and end the process; otherwise do nothing."""
    instruction = os.environ.get(_COMPLETE)
    if instruction:
        os.environ["COLUMNS"] = _UNBROKEN
        from typer.completion import (  # type: ignore[attr-defined]  # noqa: PLC0415 - quick --help
            completion_init,
            shell_complete,
        )

        completion_init()
        sys.exit(shell_complete(typer.main.get_command(app), {}, PROGRAM, _COMPLETE, instruction))


def complete_for_kubectl(app: Any, arguments: list[str]) -> str:
    """Return what kubectl expects of `kubectl_complete-PLUGIN`: candidates with help, and a directive.

    Args:
        app: the application.
        arguments: what was typed after the plugin's name; the last one is to be completed.
    """
    from typer.completion import (  # type: ignore[attr-defined]  # noqa: PLC0415 - quick --help
        completion_init,
        shell_complete,
    )

    completion_init()
    *before, last = arguments or [""]
    typed = shlex.join([PROGRAM, *before]) + f" {shlex.quote(last) if last else ''}"
    os.environ.update(
        {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args", "COLUMNS": _UNBROKEN}
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        shell_complete(typer.main.get_command(app), {}, PROGRAM, _COMPLETE, "complete_fish")
    candidates = [line for line in printed.getvalue().splitlines() if line]
    takes_file = before[:1] == ["cp"] or before[-1:] in (*_TAKE_FILES,)
    return "\n".join([*candidates, _FILES if takes_file and not candidates else _NO_FILES])
