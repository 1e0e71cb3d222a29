"""Checks a new template in a sandbox: what a session needs is there, and the supervisor answers."""

from __future__ import annotations

import json
import shlex
from typing import Any

import e2b
from managed_session_worker.paths import Paths

from managed_session_cli.errors import TemplateError

PURPOSE = {"managedagents.dev/purpose": "template-check"}
"""Metadata of the sandbox. It has no installation, so no operator touches it."""
_ALIVE_SECONDS = 180
_COMMAND_SECONDS = 90
_PATHS = Paths()
_STATUS = f"exec {_PATHS.own_interpreter} -I -S {_PATHS.package}/supervisorctl.py status"
_CHECKS = (
    ("bash", "/bin/bash --noprofile --norc -c 'echo $BASH_VERSION'", "Install bash in the image."),
    ("the user agent", "id -u agent", "Do not remove the user `agent` in the image."),
    (
        "the worker's own Python",
        f"{_PATHS.own_interpreter} -I -S -c 'import sys; print(sys.version.split()[0])'",
        "Bring one with --python-archive.",
    ),
    ("the supervisor", _STATUS, "It says why above."),
)


async def check_template(name: str, **options: Any) -> dict[str, str]:
    """Create a sandbox from a template, check it, and kill it. Return what was found, by check.

    Raises:
        TemplateError: a session could not be served in such a sandbox.
    """
    sandbox = await e2b.AsyncSandbox.create(name, timeout=_ALIVE_SECONDS, metadata=PURPOSE, **options)
    try:
        return {what: await _found(sandbox, what, command, advice) for what, command, advice in _CHECKS}
    finally:
        await sandbox.kill()


async def _found(sandbox: e2b.AsyncSandbox, what: str, command: str, advice: str) -> str:
    wrapped = f"/bin/bash -c {shlex.quote(command)}"
    try:
        ran = await sandbox.commands.run(wrapped, user="root", timeout=_COMMAND_SECONDS)
    except e2b.CommandExitException as error:
        output = " ".join((error.stdout + error.stderr).split())[-400:]
        raise TemplateError(f"a sandbox of the template lacks {what}: {output}. {advice}") from error
    line = ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ""
    if command is _STATUS:
        event = json.loads(line or "{}")
        if event.get("event") != "status":
            raise TemplateError(f"a sandbox of the template lacks {what}: it answered {line}. {advice}")
        return "answers"
    return line
