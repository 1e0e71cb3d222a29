"""The section `setup`: repositories, files and a script that a sandbox starts with.

    {"rerunOnChange": …, "refused": [{"step", "why"}, …],
     "repositories": [{"step", "url", "path", "ref", "depth", "credential", "missing"}, …],
     "files": [{"step", "path", "mode", "content" (base64) or "url" and "sha256", "missing"}, …],
     "script": {"step", "text", "seconds"}}

Each step is recorded in the sandbox when it is done, and so is the whole. Both are repeated only if
`rerunOnChange` asks for it and the step has changed. A failure of such a repetition is only a warning: the
agent has worked in the sandbox and could cause it, and must not keep its session from being served.

`missing` says why the operator lacks a value that the step needs; a step that is done does not need it any
more. In a shared sandbox, what is outside the session's directory is recorded for all sessions
(`Sandbox.owning`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from managed_session_worker.preparation import agent_files, repositories
from managed_session_worker.preparation.sandbox import Sandbox, SectionFailedError

DONE = "setup"
BASH = "/bin/bash"
_NOT_IN_FINGERPRINT = ("step", "credential", "missing", "seconds")
"""A credential that is rotated clones nothing again."""


def run(section: dict[str, Any], sandbox: Sandbox) -> None:
    """Do what has not been done in this sandbox.

    Raises:
        SectionFailedError: a step failed before the sandbox had a setup. Earlier steps are not repeated.
    """
    again = bool(section.get("rerunOnChange"))
    if sandbox.done(DONE) is None:
        _apply(section, sandbox, again)
        sandbox.set_done(DONE, "done")
    elif again:
        try:
            _apply(section, sandbox, again)
        except SectionFailedError as error:
            sandbox.warn(error.step, error.why, error.output)
        except OSError as error:
            sandbox.warn(DONE, error.strerror or str(error))


def _apply(section: dict[str, Any], sandbox: Sandbox, again: bool) -> None:
    for refused in section.get("refused") or ():
        raise SectionFailedError(str(refused["step"]), str(refused["why"]))
    repositories.clear_stages(sandbox)
    for entry in section.get("repositories") or ():
        with sandbox.owning(str(entry["path"])) as owner:
            _step(owner, again, f"repository:{entry['path']}", entry, _clone)
    for entry in section.get("files") or ():
        with sandbox.owning(str(entry["path"])) as owner:
            _step(owner, again, f"file:{entry['path']}", entry, _file)
    if script := section.get("script"):
        _step(sandbox, again, "script", script, _script)


def fingerprint(entry: dict[str, Any]) -> str:
    """Return a fingerprint of what an entry asks for."""
    asked = {name: value for name, value in entry.items() if name not in _NOT_IN_FINGERPRINT}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _step(
    sandbox: Sandbox,
    again: bool,
    name: str,
    entry: dict[str, Any],
    do: Callable[[Sandbox, dict[str, Any], str], None],
) -> None:
    key, wanted = f"{DONE}:{name}", fingerprint(entry)
    done = sandbox.done(key)
    if done == wanted or (done is not None and (not again or entry.get("missing"))):
        return
    if entry.get("missing"):
        raise SectionFailedError(str(entry["step"]), str(entry["missing"]))
    do(sandbox, entry, wanted)
    sandbox.set_done(key, wanted)


def _clone(sandbox: Sandbox, entry: dict[str, Any], wanted: str) -> None:
    repositories.clone(sandbox, repositories.Repository.of(entry), wanted)


def _file(sandbox: Sandbox, entry: dict[str, Any], _: str) -> None:
    step, path, mode = str(entry["step"]), str(entry["path"]), str(entry["mode"])
    if "url" in entry:
        seconds = float(entry.get("seconds") or repositories.DEFAULT_SECONDS)
        agent_files.download(
            sandbox, step, path, mode, str(entry["url"]), str(entry["sha256"]), seconds=seconds
        )
    else:
        agent_files.write(sandbox, step, path, mode, base64.b64decode(entry["content"]))


def _script(sandbox: Sandbox, entry: dict[str, Any], _: str) -> None:
    seconds = float(entry["seconds"])
    finished = sandbox.run_as_agent([BASH, "-c", str(entry["text"])], seconds=seconds)
    if finished.status is None:
        why = f"the script took longer than {seconds:.0f} seconds (`timeoutSeconds`) and was killed"
        raise SectionFailedError(str(entry["step"]), why, finished.output)
    if not finished.succeeded:
        why = f"the script ended with exit status {finished.status}"
        raise SectionFailedError(str(entry["step"]), why, finished.output)
