"""Runs a plan: `run.main(plan_file, sections)`. The last line of its output is the report, as JSON.

    {"failed": {"section": …, "step": …, "why": …, "output": …} or null,
     "warnings": [{"section": …, "step": …, "why": …, "output": …}, …]}

The plan is a JSON object. It may hold secrets, so its file is unlinked before anything else happens:

    {"seconds": …, "pause": …, "environment": {…}, "sections": [[name, {…}], …]}

In a sandbox that several sessions share, a session's plan is run for that session. `setup` and `hooks` are
the session's own: they run in its directory, in its mount namespace, and once for each session, with a record
of their own. So `onCreate` comes once in each session's life in the sandbox, and `afterResume` once for each
session after a pause. What `setup` puts outside the session's directory, such as below the agent's home, is
common, and done once for the sandbox. `trust`, `mounts` and `release` are the sandbox's, whoever sends them:
the record is common, all sessions see what they change, and two of them never run at the same time.
"""

import json
import os
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from managed_session_worker.paths import Paths
from managed_session_worker.preparation import hooks, mounts, outputs, setup, trust
from managed_session_worker.preparation.sandbox import OUTPUT_BYTES, Sandbox, SectionFailedError, lock
from managed_session_worker.privileges import Account, become_subreaper
from managed_session_worker.session_namespace import join_namespace

AGENT = "agent"
PLAN_PREFIX = "plan-"
STALE_SECONDS = 600
"""A plan waits seconds for its program. One that is older than this is of an operator that died."""
Section = Callable[[dict[str, Any], Sandbox], None]

SECTIONS: Mapping[str, Section] = {
    "trust": trust.run,
    "mounts": mounts.run,
    "setup": setup.run,
    "hooks": hooks.run,
    "release": mounts.release,
    "outputs": outputs.run,
}
"""The sections by name; each raises SectionFailedError."""
OF_THE_SANDBOX = frozenset({"trust", "mounts", "release"})
"""The sections that a shared sandbox's sessions have in common."""
ENTER_SECONDS = 120


def main(plan_file: str, sections: Mapping[str, Section] = SECTIONS, session: str = "") -> None:
    """Read and remove the plan, run its sections, and print the report.

    Args:
        plan_file: the plan.
        sections: the sections by name.
        session: the key of the session in a shared sandbox.
    """
    paths = Paths.from_environment(session)
    text = Path(plan_file).read_text()
    Path(plan_file).unlink()
    plan = json.loads(text)
    _remove_stale_plans(paths)
    os.umask(0o022)
    become_subreaper()
    sandbox = Sandbox(
        paths, Account.find(AGENT), dict(plan.get("environment") or {}), str(plan.get("pause") or "")
    )
    failed = _failure(plan, sections, sandbox)
    keys = ("section", "step", "why", "output")
    warnings = [dict(zip(keys, warning, strict=True)) for warning in sandbox.warnings]
    sys.stdout.write("\n" + json.dumps({"failed": failed, "warnings": warnings}) + "\n")
    sys.stdout.flush()


def _remove_stale_plans(paths: Paths) -> None:
    """Remove the plans of operators that died before they could run them, but not those of another leader."""
    for left in Path(paths.run).glob(f"{PLAN_PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()


def _open_to_owner(directory: str, account: Account) -> None:
    """Let the agent's user enter its own directory again, which the agent may have closed even to itself."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if found.st_uid == account.uid and found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
        finally:
            os.close(descriptor)


def _failure(
    plan: Mapping[str, Any], sections: Mapping[str, Section], sandbox: Sandbox
) -> dict[str, str] | None:
    """Run the sections until one fails, and return its failure."""
    seconds, wanted = float(plan["seconds"]), plan["sections"]
    if not sandbox.paths.session:
        return _failure_of(wanted, sections, sandbox, seconds)
    own = [each for each in wanted if each[0] not in OF_THE_SANDBOX]
    if common := [each for each in wanted if each[0] in OF_THE_SANDBOX]:
        # The same list of warnings, but the sandbox's own record and lock.
        place = replace(sandbox, paths=sandbox.paths.of_session(""))
        if (failed := _failure_of(common, sections, place, seconds)) is not None:
            return failed
    if not own:
        return None
    try:
        _join(sandbox.paths)
    except SectionFailedError as error:
        return _described(own[0][0], error.step, error.why, error.output)
    return _failure_of(own, sections, sandbox, seconds)


def _failure_of(
    wanted: Sequence[tuple[str, dict[str, Any]]],
    sections: Mapping[str, Section],
    sandbox: Sandbox,
    seconds: float,
) -> dict[str, str] | None:
    for directory in (sandbox.paths.workdir, sandbox.account.home):
        _open_to_owner(directory, sandbox.account)
    name, held = "", lock(sandbox.paths, seconds)
    try:
        if held is None:
            raise SectionFailedError("preparation", "an earlier preparation of this sandbox still runs")
        for name, content in wanted:
            if name not in sections:
                raise SectionFailedError(str(name), "this section is unknown")
            sandbox.section = name
            sections[name](content, sandbox)
    except SectionFailedError as error:
        return _described(name, error.step, error.why, error.output)
    except OSError as error:
        return _described(name, name, f"{error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - its text may hold a secret, its place does not
        where = traceback.extract_tb(error.__traceback__)[-1]
        return _described(
            name, name, f"unexpected {type(error).__name__} in {where.name}, line {where.lineno}"
        )
    finally:
        if held is not None:
            os.close(held)
    return None


def _described(section: str, step: str, why: str, output: str = "") -> dict[str, str]:
    return {"section": section, "step": step, "why": why, "output": output}


def _join(paths: Paths) -> None:
    """Start the session's supervisor if none runs, and move to its mount namespace.

    Raises:
        SectionFailedError: that failed.
    """
    program = f"{paths.package}/supervisorctl.py"
    try:
        ended = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", program, "session", paths.session, "enter"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ENTER_SECONDS,
            text=True,
            check=False,
        )
        answer = json.loads(ended.stdout.strip().splitlines()[-1])
        if answer["event"] != "status":
            raise SectionFailedError("preparation", f"the session cannot be entered: {answer['message']}")
        join_namespace(int(answer["pid"]))
    except (ValueError, LookupError, TypeError):
        why = "this sandbox cannot be shared by several sessions: its template is of an earlier version"
        raise SectionFailedError("preparation", why, ended.stderr[-OUTPUT_BYTES:]) from None
    except (OSError, subprocess.SubprocessError) as error:
        why = f"the session cannot be entered: {type(error).__name__}: {error}"
        raise SectionFailedError("preparation", why) from None
