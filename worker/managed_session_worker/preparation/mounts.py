"""Mounts a session's buckets and disks, and checks them and its volumes.

The programs run as root, so that the agent can neither read their credential nor stop them. They get the
credential by a file descriptor (archil: by a variable), never by a file on the disk or a command line.
Everything here may be repeated, and continues what an earlier run has left.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from managed_session_worker.preparation import mount_table as table
from managed_session_worker.preparation.mount_programs import CREDENTIAL, Command, command_for
from managed_session_worker.preparation.sandbox import ROOT_PATH, Sandbox, SectionFailedError

VOLUME = "Volume"
PROGRAMS = frozenset({"s3fs", "gcsfuse", "archil"})
FUSE_DEVICE = "/dev/fuse"
MOUNT_SECONDS = 60.0
QUICK_SECONDS = 2.0
"""How long a mount may take to answer before its connections are taken for dead."""
ANSWER_SECONDS = 12.0
UNMOUNT_SECONDS = 20.0
MAX_OUTPUT = 2000
MAX_LOG_BYTES = 64 * 1024
MEMORY_KILL_SCORE = "-500"
"""The kernel kills the agent's processes before a mount's program (proc(5), `oom_score_adj`)."""


def run(content: dict[str, Any], sandbox: Sandbox) -> None:
    """Mount and check everything. Raises SectionFailedError."""
    Mounts(sandbox, content.get("environment") or {}).apply(content["mounts"])


def release(content: dict[str, Any], sandbox: Sandbox) -> None:
    """Unmount everything before the sandbox is killed."""
    for path in Mounts(sandbox, {}).release(content["paths"], float(content["seconds"])):
        sandbox.warn(path, "it was still storing files when the sandbox was killed")


class MountError(Exception):
    """A mount failed. `output` is the end of what its program wrote."""

    def __init__(self, why: str, output: str = "") -> None:
        super().__init__(why)
        self.why, self.output = why, output


class Mounts:
    """The mounts of one sandbox.

    Args:
        sandbox: the sandbox, whose record says what has been done.
        env: more variables for the programs, such as proxies.
    """

    def __init__(self, sandbox: Sandbox, env: dict[str, str]) -> None:
        self._sandbox = sandbox
        self._folder = Path(sandbox.paths.run)  # Only root may enter it.
        self._uid, self._gid = sandbox.account.uid, sandbox.account.gid
        self._env = {"HOME": "/root", "LANG": "C.UTF-8", **env, "PATH": ROOT_PATH}

    def apply(self, mounts: list[dict[str, Any]]) -> None:
        """Make all these mounts answer, and unmount what is not among them any more.

        Raises:
            SectionFailedError: one of them failed. The others are mounted.
        """
        known = json.loads(self._sandbox.done("mounts") or "[]")
        wanted = [mount["path"] for mount in mounts if mount["type"] != VOLUME]
        self._sandbox.set_done("mounts", json.dumps(sorted({*known, *wanted})))
        failed: SectionFailedError | None = None
        for path in known:
            if path not in wanted:
                self._remove(path)
        for number, mount in enumerate(mounts):
            try:
                _check_place(mount, mounts[:number])
                self._ensure(mount)
            except MountError as error:
                failed = failed or SectionFailedError(_step(mount), error.why, error.output)
            except OSError as error:
                failed = failed or SectionFailedError(_step(mount), error.strerror or str(error))
        self._sandbox.set_done("mounts", json.dumps(sorted(wanted)))
        if failed is not None:
            raise failed

    def _ensure(self, mount: dict[str, Any]) -> None:
        path = mount["path"]
        if mount["type"] == VOLUME:
            self._check_volume(mount)
            return
        content = {name: value for name, value in mount.items() if name != "step"}
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        if self._sandbox.done(f"mount {path}") == fingerprint and self._answers(path):
            self._shorten_log(path)
            return
        self._sandbox.set_done(f"mount {path}", "")
        self._clear(path)
        command = command_for(mount, self._uid, self._gid)
        _check_parts(command)
        _make_mount_point(path)
        self._mount(mount, command)
        self._sandbox.set_done(f"mount {path}", fingerprint)

    def _answers(self, path: str) -> bool:
        """Return whether a mount answers, after its connections were cut if it is slow."""
        if not table.is_served(path):
            return False
        if table.ask(path, QUICK_SECONDS) is not None:
            table.cut_connections(table.programs(path, PROGRAMS))
            if table.ask(path, ANSWER_SECONDS) is not None:
                return False
        return table.is_served(path)

    def _clear(self, path: str) -> None:
        """Unmount what is on `path`: cleanly if it answers, else with its program."""
        pids = table.programs(path, PROGRAMS)
        if not table.entries(path):
            table.kill(pids)
            return
        if table.is_served(path) and table.ask(path, QUICK_SECONDS) is None:
            _archil_unmount(path, UNMOUNT_SECONDS)
            if table.unmount(path, UNMOUNT_SECONDS):
                table.wait_ended(pids, UNMOUNT_SECONDS)
            # Somebody uses it. The program goes on until the last file is closed.
            table.detach(path)
            return
        table.detach(path)
        table.kill(pids)
        table.wait_ended(pids, UNMOUNT_SECONDS)

    def _remove(self, path: str) -> None:
        with suppress(OSError):
            self._clear(path)
        with suppress(OSError):
            Path(path).rmdir()
        self._sandbox.set_done(f"mount {path}", "")

    def _mount(self, mount: dict[str, Any], command: Command) -> None:
        path = mount["path"]
        process, log = self._start(path, command)
        deadline = time.monotonic() + MOUNT_SECONDS
        try:
            why = self._wait(path, process, command, deadline)
            if why is None:
                self._finish(mount)
                return
        except OSError as error:
            why = f"{type(error).__name__}: {error}"
        table.detach(path)
        table.kill([process.pid, *table.programs(path, PROGRAMS)])
        process.wait()
        raise MountError(why, _tail(log, command))

    def _start(self, path: str, command: Command) -> tuple[subprocess.Popen[bytes], Path]:
        log = self._folder / f"{hashlib.sha256(path.encode()).hexdigest()[:12]}.log"
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        passed: list[int] = []
        argv = command.argv
        try:
            if command.credential is not None:
                passed = [_in_memory(command.credential)]
                argv = [word.replace(CREDENTIAL, f"/proc/self/fd/{passed[0]}") for word in argv]
            process = subprocess.Popen(  # noqa: S603 - the program was looked up in root's folders
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=passed,
                env={**self._env, **command.env},
                cwd="/",
                start_new_session=True,
            )
        finally:
            for descriptor in (output, *passed):
                os.close(descriptor)
        with suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(MEMORY_KILL_SCORE)
        return process, log

    @staticmethod
    def _wait(path: str, process: subprocess.Popen[bytes], command: Command, deadline: float) -> str | None:
        """Wait until the mount answers. Return what is wrong, or None."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return f"{command.argv[0]} has not mounted it within {MOUNT_SECONDS:g} s"
            status = process.poll()
            if status is not None and (command.stays or status != 0):
                return f"{command.argv[0]} ended"
            if table.is_served(path):
                why = table.ask(path, left)
                # A program that finds its credential refused has mounted before it ends.
                if table.is_served(path) and (process.poll() is None or not command.stays):
                    return why
                process.wait()
            time.sleep(table.POLL_SECONDS)

    def _finish(self, mount: dict[str, Any]) -> None:
        path = mount["path"]
        table.restrict(path, read_only=bool(mount.get("readOnly")))
        if mount["type"] == "Archil":
            self._give(path)

    def _check_volume(self, mount: dict[str, Any]) -> None:
        path = mount["path"]
        if not table.entries(path):
            if self._sandbox.done(f"volume {path}") is None:
                self._sandbox.warn(
                    _step(mount), "this sandbox was created without the volume; the next one gets it"
                )
                return
            raise MountError("E2B does not mount the volume any more")
        self._sandbox.set_done(f"volume {path}", mount["name"])
        why = table.ask(path, ANSWER_SECONDS)
        if why is not None:
            raise MountError(f"the volume does not answer: {why}")
        self._give(path)

    def _give(self, path: str) -> None:
        """Give the root of a storage that is still root's to the agent."""

        def act() -> int:
            if os.stat(path).st_uid == 0:  # noqa: PTH116
                os.chown(path, self._uid, self._gid)
            return 0

        number = table.in_child(act, ANSWER_SECONDS)
        if number not in (0, errno.EROFS):
            why = "it does not answer" if number is None else os.strerror(number)
            raise MountError(f"it cannot be given to the agent's user: {why}")

    def _shorten_log(self, path: str) -> None:
        log = self._folder / f"{hashlib.sha256(path.encode()).hexdigest()[:12]}.log"
        with suppress(OSError):
            if log.stat().st_size > MAX_LOG_BYTES:
                os.truncate(log, 0)

    def release(self, paths: list[str], seconds: float) -> list[str]:
        """Unmount before the sandbox is killed, so that what was written is stored.

        The agent's processes are ended first: their files are closed, and stored by that.

        Returns:
            The paths whose programs were still busy after `seconds`.
        """
        pids = {path: table.programs(path, PROGRAMS) for path in paths}
        for path in paths:
            _archil_unmount(path, seconds)
        for path in paths:
            with suppress(OSError):
                table.detach(path)
        if self._uid != 0:
            table.kill([pid for pid, uid in _processes() if uid == self._uid])
        deadline = time.monotonic() + seconds
        return [
            path
            for path, running in pids.items()
            if table.wait_ended(running, max(0.0, deadline - time.monotonic()))
        ]


def _archil_unmount(path: str, seconds: float) -> None:
    """Let archil unmount its disk, which stores what is pending first (its reference: `unmount`)."""
    if not table.programs(path, frozenset({"archil"})):
        return
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(  # noqa: S603 - the path is the session's
            ["archil", "unmount", path],  # noqa: S607 - PATH has root's folders only
            env={"PATH": ROOT_PATH, "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )


def _step(mount: dict[str, Any]) -> str:
    return f"{mount['step']} ({mount['path']})"


def _check_place(mount: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Raise MountError if the place overlaps that of an earlier mount, of another layer of the policy."""
    path = mount["path"]
    for other in others:
        if f"{path}/".startswith(f"{other['path']}/") or other["path"].startswith(f"{path}/"):
            raise MountError(f"its path overlaps {other['path']} of {other['step']}; choose another one")


def _check_parts(command: Command) -> None:
    program = command.argv[0]
    if shutil.which(program, path=ROOT_PATH) is None:
        raise MountError(
            f"the template has no program {program}; use a template with it (docs/storage.md, Templates)"
        )
    if not Path(FUSE_DEVICE).exists():
        raise MountError(f"the sandbox has no {FUSE_DEVICE}, so it cannot mount {program}")


def _processes() -> list[tuple[int, int]]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.append((int(process.name), process.stat().st_uid))
    return found


def _make_mount_point(path: str) -> None:
    """Make the directory to mount on. Raises MountError if others than root could replace a part of it."""
    place = Path("/")
    for part in Path(path).parts[1:]:
        place /= part
        place.mkdir(mode=0o755, exist_ok=True)
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise MountError(f"{place} is not a directory")
        if found.st_uid != 0 or found.st_mode & 0o022:
            raise MountError(f"{place} can be changed by others than root")


def _in_memory(content: str) -> int:
    """Return a descriptor of a file in memory that only root may open."""
    descriptor = os.memfd_create("credential")
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, content.encode())
    return descriptor


def _tail(log: Path, command: Command) -> str:
    """Return the end of the program's output, without its credential."""
    try:
        content = log.read_bytes()[-2 * MAX_OUTPUT :].decode(errors="replace")
    except OSError:
        return ""
    for secret in command.secrets:
        content = content.replace(secret, "…")
    return content.strip()[-MAX_OUTPUT:]
