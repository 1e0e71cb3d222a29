"""The section `hooks`: commands of the user at certain moments of a sandbox's life.

    {"onCreate": {"command", "seconds"}, "afterResume": …, "beforePause": …, "beforeKill": …}

The operator sends the hooks whose moment may have come. `onCreate` runs once in each sandbox, `afterResume`
once after each pause, and the others whenever they are sent.
"""

from __future__ import annotations

from typing import Any

from managed_session_worker.preparation.sandbox import Sandbox, SectionFailedError

BASH = "/bin/bash"


def run(section: dict[str, Any], sandbox: Sandbox) -> None:
    """Run the hooks whose moment has come. Only a failure of `onCreate` stops the session.

    Raises:
        SectionFailedError: `onCreate` failed. It is repeated with the next preparation.
    """
    if (hook := section.get("onCreate")) and sandbox.done("hooks.onCreate") is None:
        if failure := _failure(sandbox, hook):
            raise SectionFailedError("hooks.onCreate", *failure)
        sandbox.set_done("hooks.onCreate", "done")
    hook = section.get("afterResume")
    if hook and sandbox.pause and sandbox.done("hooks.afterResume") != sandbox.pause:
        _warn(sandbox, "afterResume", hook)
        sandbox.set_done("hooks.afterResume", sandbox.pause)
    for name in ("beforePause", "beforeKill"):
        if hook := section.get(name):
            _warn(sandbox, name, hook)


def _warn(sandbox: Sandbox, name: str, hook: dict[str, Any]) -> None:
    if failure := _failure(sandbox, hook):
        sandbox.warn(f"hooks.{name}", *failure)


def _failure(sandbox: Sandbox, hook: dict[str, Any]) -> tuple[str, str] | None:
    """Run a hook. Return why it failed, and the end of its output."""
    seconds = float(hook["seconds"])
    finished = sandbox.run_as_agent([BASH, "-c", str(hook["command"])], seconds=seconds)
    if finished.status is None:
        return f"the command took longer than {seconds:.0f} seconds and was killed", finished.output
    if not finished.succeeded:
        return f"the command ended with exit status {finished.status}", finished.output
    return None
