"""A sandbox for tests: a directory, a real supervisor process, and real `supervisorctl` processes."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import managed_session_worker
from managed_session_worker.paths import ROOT_VARIABLE, Paths
from managed_session_worker.template import RUNTIME_FILES

from ...support.waiting import wait_until

PACKAGE = Path(managed_session_worker.__file__).parent
TIMEOUT_SECONDS = 60.0
TOKEN = "sessions-token-never-to-be-seen"
SECRET = base64.urlsafe_b64encode(json.dumps({"sessions_token": TOKEN}).encode()).decode().rstrip("=")
AGENT_UID = 64217
WORKER = "$(pgrep -x -P $(ps -o ppid= -p $PPID) session-worker)"
"""In a command of the agent: the PID of the worker, whose parent is that of the shell's parent."""
FIRST, SECOND, THIRD = (f"20261123T16540{n}.000001Z" for n in (1, 2, 3))
Event = dict[str, Any]


class Supervisorctl:
    """One `supervisorctl` process, which collects its events."""

    def __init__(
        self, root: Path, program: Path, *arguments: str, prefix: Sequence[str] = (), **variables: str
    ) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self._over = False
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-I", "-S", str(program), *arguments],
            env={**os.environ, ROOT_VARIABLE: str(root), "FROM_THE_SANDBOX": "yes", **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def event(self, name: str) -> Event:
        """Wait for the event `name`."""

        def found() -> Event | None:
            return next((event for event in self.events if event["event"] == name), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._over, TIMEOUT_SECONDS)
        event = found()
        assert event is not None, f"no {name!r} in {self.events}"
        return event

    def record(self) -> Event:
        """Wait for the exit record."""
        record: Event = self.event("exited")["record"]
        return record


class Process:
    """A process that is not a child of this one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> None:
        wait_until(lambda: not alive(self.pid), f"process {self.pid} did not end")


class SupervisorForker:
    """Starts supervisors that have their imports already.

    Args:
        prefix: a command that runs the forker, for example in namespaces of its own.
    """

    def __init__(self, *prefix: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(Path(__file__).with_name("supervisor_forker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The process from which supervisors are forked."""
        return self._process.pid

    def start(self, program: Path, root: Path, account: str) -> Process:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"program": str(program), "root": str(root), "account": account}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Process(int(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Sandbox:
    """A root directory with a supervisor."""

    def __init__(self, url: str, forker: SupervisorForker, prefix: Sequence[str] = ()) -> None:
        self._forker = forker
        self._prefix = prefix
        self.root = Path(tempfile.mkdtemp(prefix="sandbox-", dir="/tmp"))
        self.root.chmod(0o755)
        self.paths = Paths(str(self.root))
        # Exactly the files that the template copies.
        self.library = Path(self.paths.home, "lib", PACKAGE.name)
        self.library.mkdir(parents=True)
        for file in (PACKAGE / name for name in RUNTIME_FILES):
            shutil.copy(file, self.library)
        self.url = url
        self.supervisor: Process | None = None
        self._clients: list[Supervisorctl] = []

    def start_supervisor(self, account: str = str(AGENT_UID)) -> Process:
        """Start a supervisor, and wait until it listens."""
        self.supervisor = self._forker.start(self.library / "supervisor.py", self.root, account)
        wait_until(lambda: Path(self.paths.socket).exists(), "no supervisor")
        return self.supervisor

    def begin_supervisor(self, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a supervisor by its path, with a template's variables, and wait until it listens."""
        supervisor = subprocess.Popen(
            [*self._prefix, sys.executable, str(self.library / "supervisor.py"), "--account", str(AGENT_UID)],
            env={**os.environ, ROOT_VARIABLE: str(self.root), **variables},
        )
        wait_until(lambda: Path(self.paths.socket).exists(), "no supervisor")
        return supervisor

    def run_supervisor(self) -> int:
        """Run another supervisor by its path until it ends, and return its exit status."""
        return subprocess.run(
            [sys.executable, str(self.library / "supervisor.py")],
            env={**os.environ, ROOT_VARIABLE: str(self.root)},
            timeout=TIMEOUT_SECONDS,
        ).returncode

    def request(self, claim: str = FIRST, **changes: Any) -> Event:
        return {
            "command": "start",
            "epoch": 1,
            "claim": claim,
            "sessionID": "sesn_1",
            "workID": "sesn_1",
            "environmentID": "env_1",
            "workSecret": SECRET,
            "environmentKey": None,
            "baseURL": self.url,
            "maxIdleSeconds": 0.3,
            "attachTimeoutSeconds": 60,
            "logLevel": "INFO",
            **changes,
        }

    def start(
        self, claim: str = FIRST, variables: dict[str, str] | None = None, **changes: Any
    ) -> Supervisorctl:
        path = Path(self.paths.inbox, f"{claim}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.request(claim, **changes)))
        return self.supervisorctl("start", claim, **variables or {})

    def supervisorctl(self, *arguments: str, **variables: str) -> Supervisorctl:
        program = self.library / "supervisorctl.py"
        client = Supervisorctl(self.root, program, *arguments, prefix=self._prefix, **variables)
        self._clients.append(client)
        return client

    def log(self) -> str:
        return Path(self.paths.worker_log).read_text()

    def close(self) -> None:
        """End every process of the sandbox, and remove it.

        A killed `supervisorctl` may leave a supervisor without a lock, so all are found by their root.
        """
        self._end_clients()
        status = self.supervisorctl("status").event("status") if Path(self.paths.lock).exists() else {}
        if status:
            supervisor = Process(status["pid"])
            supervisor.send(signal.SIGTERM)
            supervisor.wait()
        self._end_clients()
        wait_until(self._end_processes, f"processes of {self.root} are left")
        shutil.rmtree(self.root)

    def _end_clients(self) -> None:
        for client in self._clients:
            client.process.kill()
            client.process.wait()
            if client.process.stdout:
                client.process.stdout.close()
        self._clients.clear()

    def _end_processes(self) -> bool:
        """Stop the processes with this root. Return whether none was alive."""
        found = list(started_with(f"{ROOT_VARIABLE}={self.root}"))
        for process in found:
            process.send(signal.SIGTERM)
        return not found


def started_with(variable: str) -> Iterator[Process]:
    """Return all live processes that were started with this variable (NAME=value)."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            variables = (directory / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if variable.encode() in variables and alive(int(directory.name)):
            yield Process(int(directory.name))


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
