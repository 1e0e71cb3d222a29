"""What the sections of a plan work with: programs with a limit of time, and a record of what is done."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from managed_session_worker import processes
from managed_session_worker.paths import Paths
from managed_session_worker.privileges import Account, drop_privileges

OUTPUT_BYTES = 2000
"""How much of the end of a program's output is kept."""
COMMON_SECONDS = 600.0
"""How long a session waits for another one that prepares what they have in common."""
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHUNK_BYTES = 65536
_POLL_SECONDS = 0.2
_KILL_PASSES = 50
_RESERVED = ("ANTHROPIC_", "E2B_")
"""Prefixes of variables that no program gets."""


class SectionFailedError(Exception):
    """A step of a section failed.

    Attributes:
        step: the field of the policy that failed, such as `setup.repositories[0]`.
        why: the cause, as a sentence for people. Never contains a secret.
        output: the end of the output of the program that failed.
    """

    def __init__(self, step: str, why: str, output: str = "") -> None:
        super().__init__(f"{step}: {why}")
        self.step, self.why, self.output = step, why, output


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    Attributes:
        status: its exit status, negative for a signal; None if it ran out of time and was killed.
        output: the end of what it wrote.
    """

    status: int | None
    output: str

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.status == 0


@dataclass
class Sandbox:
    """The sandbox that is prepared.

    Attributes:
        paths: its paths; in a shared sandbox those of the session, once the program is in its namespace.
        account: the user of the agent's commands.
        environment: variables that only the agent's programs get.
        pause: names the newest pause that the operator has recorded; empty if the sandbox was never paused.
        section: the section that runs.
        warnings: failures that do not stop the session, as (section, step, why, output).
    """

    paths: Paths
    account: Account
    environment: Mapping[str, str] = field(default_factory=dict)
    pause: str = ""
    section: str = ""
    warnings: list[tuple[str, str, str, str]] = field(default_factory=list)

    def warn(self, step: str, why: str, output: str = "") -> None:
        """Report a failure that does not stop the session."""
        self.warnings.append((self.section, step, why, output))

    def run_as_agent(
        self,
        command: Sequence[str],
        *,
        seconds: float,
        stdin: bytes = b"",
        cwd: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run a program as the user of the agent's commands, by default in the session's directory.

        Args:
            command: the program's absolute path, and its arguments.
            seconds: how long it may take. Then it is killed, with everything that it has started.
            stdin: what it can read, for what must not appear in the process table.
            cwd: where it begins.
            env: further variables.
        """
        account = self.account
        variables = {name: value for name, value in os.environ.items() if not name.startswith(_RESERVED)}
        variables.setdefault("PATH", ROOT_PATH)
        variables.update(self.environment)
        variables.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
        variables.update(env or {})
        return _run(
            command,
            seconds,
            stdin,
            cwd or self.paths.workdir,
            variables,
            lambda: drop_privileges(account),
        )

    def run_as_root(
        self,
        command: Sequence[str],
        *,
        seconds: float,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run a program as root, with a search path and `env` as its only variables."""
        return _run(command, seconds, stdin, "/", {"PATH": ROOT_PATH, **(env or {})}, None)

    @contextmanager
    def owning(self, path: str) -> Iterator[Sandbox]:
        """Return whose record `path` belongs to: in a shared sandbox the session's, or that of all sessions.

        The latter is held during the block, so that sessions do not change the same place at once.

        Raises:
            SectionFailedError: a preparation of another session holds it.
        """
        if not self.paths.session or path.startswith(f"{self.paths.workdir}/"):
            yield self
            return
        common = replace(self, paths=self.paths.of_session(""))
        held = lock(common.paths, COMMON_SECONDS)
        if held is None:
            raise SectionFailedError(self.section, f"another session of this sandbox still prepares {path}")
        try:
            yield common
        finally:
            os.close(held)

    def done(self, key: str) -> str | None:
        """Return the fingerprint with which `key` was recorded as done in this sandbox, if it was."""
        return self._record().get(key)

    def set_done(self, key: str, fingerprint: str) -> None:
        """Record on the disk that `key` is done. Snapshots include the record.

        Raises:
            OSError: it could not be written.
        """
        record = {**self._record(), key: fingerprint}
        path = Path(self.paths.preparation_record)
        new = path.with_suffix(".new")
        with new.open("w") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def _record(self) -> dict[str, str]:
        try:
            found: Any = json.loads(Path(self.paths.preparation_record).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def lock(paths: Paths, seconds: float) -> int | None:
    """Wait until no other preparation runs here; the lock is held until the returned descriptor is closed.

    An operator that died may have left one running. Returns None if it still runs after `seconds`.
    """
    descriptor = os.open(paths.preparation_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(_POLL_SECONDS)
        else:
            return descriptor


def _run(
    command: Sequence[str],
    seconds: float,
    stdin: bytes,
    cwd: str,
    variables: Mapping[str, str],
    become: Callable[[], None] | None,
) -> Finished:
    began, deadline = processes.boot_ticks(), time.monotonic() + seconds
    try:
        process = subprocess.Popen(  # noqa: S603 - what the plan or a section names
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(variables),
            start_new_session=True,
            preexec_fn=become,  # noqa: PLW1509 - this program has one thread
            bufsize=0,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finished(127, f"{command[0]}: {error}")
    tail = _communicate(process, stdin, deadline)
    status = process.poll()
    if status is None:
        _kill_started_since(began)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    return Finished(status, tail[-OUTPUT_BYTES:].decode(errors="replace").strip())


def _communicate(process: subprocess.Popen[bytes], stdin: bytes, deadline: float) -> bytes:
    """Feed and read a program until it ends or its time is over.

    What its background processes write later is not waited for.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    feed, read, tail = process.stdin, process.stdout, bytearray()
    for pipe in (feed, read):
        os.set_blocking(pipe.fileno(), False)
    unsent, open_ends = memoryview(stdin), True
    if not stdin:
        feed.close()
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        writable = [feed.fileno()] if not feed.closed else []
        readable = [read.fileno()] if open_ends else []
        ready, can_write, _ = select.select(readable, writable, [], 0 if ended else _POLL_SECONDS)
        if can_write:
            unsent = _feed(feed.fileno(), unsent)
            if not unsent:
                feed.close()
        if ready:
            data = os.read(read.fileno(), _CHUNK_BYTES)
            open_ends = bool(data)
            tail += data
            del tail[:-OUTPUT_BYTES]
        elif ended:
            break
        elif not open_ends:
            time.sleep(_POLL_SECONDS / 10)
    return bytes(tail)


def _feed(descriptor: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(descriptor, unsent[:_CHUNK_BYTES]) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[:0]


def _kill_started_since(began: int) -> None:
    """Kill everything below this process that was started since `began`. It is a subreaper."""
    for _ in range(_KILL_PASSES):
        below = processes.descendants(processes.process_table(), {os.getpid()})
        alive = [each.pid for each in below if each.alive and each.started >= began]
        if not alive:
            return
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(processes.PASS_INTERVAL_SECONDS)
