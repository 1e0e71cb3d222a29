"""Several sessions in one sandbox: each has its own supervisor, folders, shells and processes."""

import json
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ...support.waiting import wait_until
from .worker_sandbox import FIRST, SECOND, Event, Process, Sandbox, Supervisorctl, SupervisorForker, alive
from .worker_wire import Wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make mount namespaces")

ACCOUNT = "games"
"""A user of every distribution, of which nothing runs. So supervisors also kill by user."""
SLEEPER = "sleep 1000 >/dev/null 2>&1 & echo $!"
HIDDEN = "setsid env -i sleep 1000 >/dev/null 2>&1 & echo $!"
"""A process that has left its session, its shell and its variables."""


class Session:
    """One session of a shared sandbox."""

    def __init__(self, sandbox: Sandbox, key: str, wire: Wire) -> None:
        self.sandbox, self.key, self.wire = sandbox, key, wire
        self.paths = sandbox.paths.of_session(key)

    def ctl(self, *arguments: str) -> Supervisorctl:
        return self.sandbox.supervisorctl("session", self.key, *arguments)

    def begin(self, claim: str) -> Supervisorctl:
        """Write the request as the operator does, and start its worker."""
        Path(self.paths.inbox).mkdir(parents=True, exist_ok=True)
        request = self.sandbox.request(claim, baseURL=self.wire.url)
        Path(self.paths.request(claim)).write_text(json.dumps(request))
        client = self.ctl("start", claim)
        client.event("heartbeat")
        self.wire.say()
        return client

    def sleeper(self, command: str = SLEEPER) -> int:
        """Have the agent start a background process, and return its PID."""
        return next(int(line) for line in self.run(command).splitlines() if line.isdecimal())

    def run(self, command: str) -> str:
        """Have the agent run a command, and return its output, whether it succeeded or not."""
        return self.wire.run(command)[0]

    def prepared(self) -> int:
        """Have a program run as the agent's user in the session, as its preparation does. Return its PID."""
        command = ("setpriv", f"--reuid={ACCOUNT}", "--clear-groups", "sleep", "1000")
        process = self.ctl("run", *command).process
        user = pwd.getpwnam(ACCOUNT).pw_uid
        wait_until(lambda: Path(f"/proc/{process.pid}").stat().st_uid == user, "it does not run")
        return process.pid

    def status(self) -> Event:
        return self.ctl("enter").event("status")

    def worker(self) -> int:
        return int(self.status()["running"]["pid"])

    def leave(self) -> None:
        self.ctl("leave").event("left")


@pytest.fixture(scope="module")
def namespaced_forker() -> Iterator[SupervisorForker]:
    """Starts supervisors in a mount namespace that stands for the sandbox's own."""
    forker = SupervisorForker("unshare", "--mount")
    wait_until(lambda: mounts_of(forker.pid) != mounts_of(os.getpid()), "no mount namespace")
    yield forker
    forker.close()


@pytest.fixture
def shared(wire: Wire, namespaced_forker: SupervisorForker) -> Iterator[Sandbox]:
    """A sandbox whose supervisor runs."""
    inside = ("nsenter", f"--mount=/proc/{namespaced_forker.pid}/ns/mnt")
    sandbox = Sandbox(wire.url, namespaced_forker, inside)
    sandbox.start_supervisor(ACCOUNT)
    yield sandbox
    for key in ("a", "b", "c"):
        sandbox.supervisorctl("session", key, "leave").event("left")
    sandbox.close()


@pytest.fixture
def join(shared: Sandbox) -> Iterator[Callable[[str], Session]]:
    """Return a session of the sandbox, with Anthropic's side of its own."""
    with ExitStack() as stack:

        def session(key: str) -> Session:
            wire = Wire()
            stack.callback(wire.close)
            return Session(shared, key, wire)

        yield session


def mounts_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/mnt").readlink()


def test_sessions_see_the_usual_paths_and_not_each_other(
    shared: Sandbox, namespaced_forker: SupervisorForker, join: Callable[[str], Session]
) -> None:
    workdir, memory = shared.paths.workdir, shared.paths.memory
    sessions = [join("a"), join("b")]
    for each in sessions:
        each.begin(FIRST)
        each.run(f"KEPT={each.key}; echo {each.key} > here; mkdir {memory}/{each.key}")
    later = shared.root / "mnt/later"
    later.mkdir()
    mount = ["mount", "-t", "tmpfs", "later", str(later)]
    subprocess.run(["nsenter", f"--mount=/proc/{namespaced_forker.pid}/ns/mnt", *mount], check=True)
    for each, other in zip(sessions, reversed(sessions), strict=True):
        assert each.run(f"pwd; cat here; echo $KEPT; ls {memory}; findmnt -no FSTYPE {later}") == "\n".join(
            [workdir, each.key, each.key, each.key, "tmpfs"]
        )
        assert Path(each.paths.outer_workdir, "here").read_text() == f"{each.key}\n"
        for hidden in (other.paths.outer_workdir, other.paths.worker_log, other.paths.run):
            assert "Permission denied" in each.run(f"cat {hidden}/here {hidden} 2>&1")
        assert each.key in Path(each.paths.supervisor_log).read_text()
    assert not Path(workdir, "here").exists()
    assert not list(Path(memory).iterdir())


def test_a_session_that_dies_or_leaves_takes_nothing_of_another_one_along(
    join: Callable[[str], Session],
) -> None:
    a, b = join("a"), join("b")
    client = a.begin(FIRST)
    b.begin(FIRST)
    theirs = [b.sleeper(), b.sleeper(HIDDEN), b.prepared(), b.worker(), b.status()["pid"]]
    ours = [a.sleeper(), a.sleeper(HIDDEN), a.worker()]
    Process(a.status()["pid"]).send(signal.SIGKILL)
    # `supervisorctl` starts the session's next supervisor, which has killed all of this before it answers.
    assert client.record()["reason"] == "Killed"
    assert not any(map(alive, ours))
    a.begin(SECOND)
    ours = [a.sleeper(), a.sleeper(HIDDEN), a.prepared(), a.worker(), a.status()["pid"]]
    link = Path(a.paths.outer_workdir, "link")
    link.symlink_to(b.paths.outer_workdir)
    b.run("echo kept > here")
    a.leave()
    assert not any(map(alive, ours))
    assert not any(map(os.path.lexists, a.paths.folders))
    a.leave()
    assert all(map(alive, theirs))
    assert b.run("cat here") == "kept"
    a.begin(FIRST)
    assert a.run("echo $(ls)").splitlines()[-1] == "outputs skills", "it is a new session"
    assert all(map(alive, theirs))


def test_sessions_outlive_the_sandbox_s_own_supervisor(
    shared: Sandbox, join: Callable[[str], Session]
) -> None:
    a, b = join("a"), join("b")
    for each in (a, b):
        each.begin(FIRST)
    living = [a.sleeper(), a.sleeper(HIDDEN), a.worker(), b.worker(), b.sleeper(HIDDEN)]
    supervisors = [a.status()["pid"], b.status()["pid"]]
    assert shared.supervisor is not None
    shared.supervisor.send(signal.SIGKILL)
    shared.supervisor.wait()
    assert [a.status()["pid"], b.status()["pid"]] == supervisors, "they answer without it"
    Path(shared.paths.socket).unlink()
    shared.start_supervisor(ACCOUNT)
    c = join("c")
    c.begin(FIRST)
    assert shared.supervisorctl("status").event("status")["pid"] == shared.supervisor.pid
    shared.supervisor.send(signal.SIGTERM)
    shared.supervisor.wait()
    Process(c.status()["pid"]).send(signal.SIGTERM)
    assert all(map(alive, [*living, *supervisors]))
    shared.start_supervisor(ACCOUNT)


def test_enter_starts_one_supervisor_however_often_it_runs_and_whatever_the_agent_prepares(
    shared: Sandbox, join: Callable[[str], Session]
) -> None:
    a, b = join("a"), join("b")
    a.begin(FIRST)
    takes = [f"mkdir -p {path} || ln -s /tmp {path}" for path in (*b.paths.folders, b.paths.socket)]
    taken = a.run(
        "; ".join([*takes, f"mv {shared.paths.workdir} {shared.paths.memory} /tmp"]) + " 2>/dev/null"
    )
    assert "Permission denied" in taken
    entered = [b.ctl("enter") for _ in range(4)]
    assert len({each.event("status")["pid"] for each in entered}) == 1
    b.begin(FIRST)
    assert b.run("pwd") == shared.paths.workdir
    for command in (("watch", FIRST), ("stop", FIRST, "1")):
        assert join("c").ctl(*command).event("refused")["code"] == "UnknownClaim"
    assert not any(map(os.path.lexists, shared.paths.of_session("c").folders))
    refused = shared.supervisorctl("session", "../b", "enter")
    assert refused.process.wait() == 2


def test_run_executes_programs_in_the_session_and_its_end_is_theirs(
    shared: Sandbox, join: Callable[[str], Session]
) -> None:
    a = join("a")
    command = 'printf \'{"event": "%s"}\\n\' "$(id -u) $(ls -A | wc -l)"; exit 7'
    ran = a.ctl("run", "/bin/sh", "-c", f"cd {shared.paths.workdir}; touch here; {command}")
    ran.event("0 1")
    assert ran.process.wait() == 7
    assert Path(a.paths.outer_workdir, "here").exists()


def test_a_sandbox_that_cannot_be_shared_says_so(shared: Sandbox) -> None:
    place = Path(shared.paths.memory)
    place.rmdir()
    place.touch()
    refused = shared.supervisorctl("session", "a", "enter").event("refused")
    assert refused["code"] == "SharingUnsupported"
    assert "File exists" in refused["message"]
    shared.supervisorctl("session", "a", "leave").event("left")
    assert not Path(shared.paths.of_session("a").run).exists()
    assert shared.supervisorctl("status").event("status")["running"] is None
