"""Sandboxes and operators of the previous version, which called `supervisorctl.py` `attach.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from managed_session_operator.clients.e2b.worker_streams import SUPERVISORCTL
from managed_session_worker.paths import ROOT_VARIABLE, Paths

from .worker_sandbox import FIRST, Sandbox

PATHS = Paths()
OLD_OPERATORS_COMMAND = f"{PATHS.find_python}; exec $p -I -S {PATHS.package}/attach.py"


def drive(sandbox: Sandbox, command: str) -> None:
    """Start and stop a worker, as an operator with this command does."""
    Path(sandbox.paths.request(FIRST)).write_text(json.dumps(sandbox.request()))
    here = Path(sys.executable).parent
    variables = {**os.environ, ROOT_VARIABLE: str(sandbox.root), "PATH": f"{here}:{os.environ['PATH']}"}

    def run(arguments: str) -> "subprocess.Popen[str]":
        line = f"{command.replace(PATHS.home, sandbox.paths.home)} {arguments}"
        return subprocess.Popen(["/bin/bash", "-c", line], env=variables, text=True, stdout=subprocess.PIPE)

    with run(f"start {FIRST}") as start, run("status") as status:
        assert start.stdout is not None
        assert json.loads(start.stdout.readline())["event"] == "accepted"
        assert json.loads(status.communicate()[0])["event"] == "status"
        with run(f"stop {FIRST} 1") as stop:
            assert json.loads(stop.communicate()[0])["record"]["reason"] == "Killed"
        assert json.loads(start.communicate()[0].splitlines()[-1])["event"] == "exited"


def test_the_operator_drives_a_sandbox_that_has_only_the_old_command(sandbox: Sandbox) -> None:
    (sandbox.library / "supervisorctl.py").rename(sandbox.library / "attach.py")
    drive(sandbox, SUPERVISORCTL)
    (sandbox.library / "attach.py").rename(sandbox.library / "supervisorctl.py")


def test_the_operator_does_not_need_the_old_command(sandbox: Sandbox) -> None:
    (sandbox.library / "attach.py").unlink()
    drive(sandbox, SUPERVISORCTL)


def test_an_operator_of_the_previous_version_drives_a_sandbox_of_this_one(sandbox: Sandbox) -> None:
    drive(sandbox, OLD_OPERATORS_COMMAND)
