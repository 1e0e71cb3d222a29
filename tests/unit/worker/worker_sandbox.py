"""A sandbox for tests: a directory, a real supervisor process, and real `attach` processes."""

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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import managed_session_worker
from managed_session_worker.paths import ROOT_VARIABLE, Paths
from managed_session_worker.template import RUNTIME_FILES

PACKAGE = Path(managed_session_worker.__file__).parent
TIMEOUT_SECONDS = 30.0
TOKEN = "sessions-token-never-to-be-seen"
SECRET = base64.urlsafe_b64encode(json.dumps({"sessions_token": TOKEN}).encode()).decode().rstrip("=")
AGENT_UID = 64217
FIRST, SECOND, THIRD = (f"20261123T16540{n}.000001Z" for n in (1, 2, 3))
Event = dict[str, Any]
T = TypeVar("T")


def eventually(what: Callable[[], T], message: str = "") -> T:
    """Wait until `what` gives something true, and return it."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (value := what()):
        assert time.monotonic() < deadline, message or "never became true"
        threading.Event().wait(0.01)
    return value


class Attach:
    """One attach process, its events collected as they come."""

    def __init__(self, root: Path, program: Path, *arguments: str, **variables: str) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self._over = False
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), *arguments],
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
    """A process that is not this one's child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> None:
        eventually(lambda: not alive(self.pid), f"process {self.pid} did not end")


class Nursery:
    """Starts supervisors that need not import everything again."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("supervisor_nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

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
    """A root directory with a supervisor in it."""

    def __init__(self, url: str, nursery: Nursery) -> None:
        self._nursery = nursery
        self.root = Path(tempfile.mkdtemp(prefix="sandbox-", dir="/tmp"))
        self.root.chmod(0o755)
        self.paths = Paths(str(self.root))
        # The very files that the template copies, and nothing else.
        self.library = Path(self.paths.home, "lib", PACKAGE.name)
        self.library.mkdir(parents=True)
        for file in (PACKAGE / name for name in RUNTIME_FILES):
            shutil.copy(file, self.library)
        self.url = url
        self.supervisor: Process | None = None
        self._attached: list[Attach] = []

    def start_supervisor(self, account: str = str(AGENT_UID)) -> Process:
        """Start a supervisor and wait until it listens."""
        self.supervisor = self._nursery.start(self.library / "supervisor.py", self.root, account)
        eventually(lambda: Path(self.paths.socket).exists(), "no supervisor")
        return self.supervisor

    def run_supervisor(self) -> int:
        """Run one more supervisor by its path to its end, and return the exit status."""
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

    def start(self, claim: str = FIRST, **changes: Any) -> Attach:
        path = Path(self.paths.inbox, f"{claim}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.request(claim, **changes)))
        return self.attach("start", claim)

    def attach(self, *arguments: str, **variables: str) -> Attach:
        attach = Attach(self.root, self.library / "attach.py", *arguments, **variables)
        self._attached.append(attach)
        return attach

    def log(self) -> str:
        return Path(self.paths.worker_log).read_text()

    def close(self) -> None:
        """End every process of the sandbox, and remove it.

        A killed attach may leave a supervisor that has no lock yet, so all are looked for by their root.
        """
        self._end_attaches()
        status = self.attach("status").event("status") if Path(self.paths.lock).exists() else {}
        if status:
            supervisor = Process(status["pid"])
            supervisor.send(signal.SIGTERM)
            supervisor.wait()
        self._end_attaches()
        eventually(self._end_processes, f"processes of {self.root} are left")
        shutil.rmtree(self.root)

    def _end_attaches(self) -> None:
        for attach in self._attached:
            attach.process.kill()
            attach.process.wait()
            if attach.process.stdout:
                attach.process.stdout.close()
        self._attached.clear()

    def _end_processes(self) -> bool:
        """Ask what was started with this root to end; whether nothing of it was alive."""
        found = list(started_with(f"{ROOT_VARIABLE}={self.root}"))
        for process in found:
            process.send(signal.SIGTERM)
        return not found


def started_with(variable: str) -> Iterator[Process]:
    """All live processes that were started with this variable (NAME=value)."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            variables = (directory / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if variable.encode() in variables and alive(int(directory.name)):
            yield Process(int(directory.name))


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
