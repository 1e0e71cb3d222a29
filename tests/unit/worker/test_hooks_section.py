"""The section `hooks` of a preparation, with real processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from managed_session_worker.paths import Paths
from managed_session_worker.preparation import hooks
from managed_session_worker.preparation.sandbox import Sandbox, SectionFailedError
from managed_session_worker.privileges import Account


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    root = tempfile.mkdtemp()
    paths = Paths(root)
    for folder in (paths.home, paths.workdir):
        Path(folder).mkdir(parents=True)
    yield Sandbox(paths, Account.find("no-such-user"))
    shutil.rmtree(root)


def hook(command: str, seconds: float = 30) -> dict[str, object]:
    return {"command": command, "seconds": seconds}


def resumed(sandbox: Sandbox, pause: str) -> Sandbox:
    """The same sandbox after a pause."""
    return Sandbox(sandbox.paths, sandbox.account, pause=pause)


def said(sandbox: Sandbox) -> str:
    file = Path(sandbox.paths.workdir, "said")
    return file.read_text() if file.exists() else ""


def test_on_create_runs_once_and_after_resume_once_after_each_pause(sandbox: Sandbox) -> None:
    section = {"onCreate": hook("echo created >> said"), "afterResume": hook("echo resumed >> said")}
    hooks.run(section, sandbox)
    hooks.run(section, sandbox)
    assert said(sandbox) == "created\n"
    for pause in ("one", "one", "two"):
        hooks.run(section, resumed(sandbox, pause))
    assert said(sandbox) == "created\nresumed\nresumed\n"


def test_failed_on_create_stops_the_session_and_runs_again(sandbox: Sandbox) -> None:
    section = {"onCreate": hook("echo once >> said; echo the cause; [ -e go ]")}
    with pytest.raises(SectionFailedError) as caught:
        hooks.run(section, sandbox)
    assert (caught.value.step, caught.value.output) == ("hooks.onCreate", "the cause")
    Path(sandbox.paths.workdir, "go").touch()
    hooks.run(section, sandbox)
    hooks.run(section, sandbox)
    assert said(sandbox) == "once\nonce\n"


@pytest.mark.parametrize("name", ["afterResume", "beforePause", "beforeKill"])
def test_other_hooks_that_fail_or_hang_only_warn(sandbox: Sandbox, name: str) -> None:
    later = resumed(sandbox, "one")
    hooks.run({name: hook("echo the cause; exit 4")}, later)
    later = Sandbox(later.paths, later.account, pause="two", warnings=later.warnings)
    hooks.run({name: hook("echo begun; trap '' TERM; sleep 1000", 0.5)}, later)
    (_, step, why, output), (_, _, late, begun) = later.warnings
    assert (step, output, begun) == (f"hooks.{name}", "the cause", "begun")
    assert "exit status 4" in why
    assert "longer than" in late
