"""Sandboxes as processes: made from a template build, with its start command up, some kept ready."""

import asyncio
import logging
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from managed_session_local.simulators.e2b.errors import ConnectError
from managed_session_local.simulators.e2b.host import Machine, SandboxHostError, SandboxProcess, Zygote
from managed_session_local.simulators.e2b.namespace import root as root_file_system
from managed_session_local.simulators.e2b.processes import ProcessConfig, ProcessTable
from managed_session_local.simulators.e2b.settings import Settings

_log = logging.getLogger(__name__)
_SHELL_SYNTAX: Final = frozenset("|&;<>()$`\\*?[]#~={}\n!")
_SIMPLE_FLAGS: Final = frozenset("ISuBEsqP")
_READY_INTERVAL_SECONDS: Final = 0.05
_REFILL_QUIET_SECONDS: Final = 0.25


@dataclass
class TemplateBuild:
    """What a build left: a layer of files, and the commands whose processes every sandbox starts with."""

    template_id: str
    build_id: str
    layer: Path | None = None
    user: str = "user"
    directory: str = "/home/user"
    environment: dict[str, str] = field(default_factory=dict)
    start_command: str = ""
    ready_command: str = ""
    cpu_count: int = 2
    memory_mb: int = 1024

    @property
    def script(self) -> list[str] | None:
        """The start command as a Python script and its arguments, if it is nothing else."""
        return python_script(self.start_command)


def python_script(command: str) -> list[str] | None:
    """`[script, argument…]` of a plain `[exec] python3 [-flags] script.py …`, else None."""
    if not command or _SHELL_SYNTAX & set(command):
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if words and words[0] == "exec":
        words = words[1:]
    if not words or Path(words[0]).name not in ("python", "python3"):
        return None
    words = words[1:]
    while words and words[0].startswith("-") and set(words[0][1:]) <= _SIMPLE_FLAGS and words[0] != "-":
        words = words[1:]
    if not words or not words[0].endswith(".py") or not words[0].startswith("/"):
        return None
    return words


def user_id(name: str) -> int:
    """The uid of a sandbox user. Raises ConnectError for one that does not exist."""
    known = {"": root_file_system.USER_ID, "user": root_file_system.USER_ID, "root": 0}
    if name not in known:
        raise ConnectError("unauthenticated", f"invalid username: '{name}'")
    return known[name]


def home_directory(name: str) -> str:
    """The home of a sandbox user."""
    return "/root" if name == "root" else "/home/user"


def base_environment(user: str) -> dict[str, str]:
    """What envd gives every process; `python3` is the interpreter that runs the simulator."""
    path = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": home_directory(user), "USER": user, "LOGNAME": user}


class Slot:
    """One root directory with a run of processes on it."""

    def __init__(self, build: TemplateBuild, root: Path, process: SandboxProcess, machine: Machine) -> None:
        self.build = build
        self.root = root
        self.process = process
        self.machine = machine
        self.table = ProcessTable(process)

    @property
    def files(self) -> Path:
        """Where the host sees the sandbox's files: a limited disk is mounted inside only."""
        if self.machine.disk_megabytes is None:
            return self.root
        return Path(f"/proc/{self.process.host_pid}/root")


class Slots:
    """Makes, keeps ready and destroys slots."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._skeleton = directory / "skeleton"
        self.settings = settings
        self._zygotes: dict[tuple[str, ...], Zygote] = {}
        self._pools: dict[str, list[Slot]] = {}
        self._refills: dict[str, asyncio.Task[None]] = {}
        self._live: set[Slot] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._last_take = 0.0
        self._closing = False
        windows = [*root_file_system.system_windows(), sys.prefix, sys.base_prefix]
        executable = Path(sys.executable).resolve()
        windows.append(str(executable.parent))
        self._windows = _outermost(windows)

    async def open(self) -> None:
        """Prepare the common files and check that sandboxes can run here. Raises SandboxHostError."""
        self._skeleton.mkdir()
        await asyncio.to_thread(root_file_system.build_skeleton, self._skeleton)
        await self._zygote(()).start()

    @property
    def privileged(self) -> bool:
        """Whether sandboxes run as the host's root user, so that root and user differ inside."""
        return self._zygote(()).privileged

    @property
    def _machine(self) -> Machine:
        return Machine(self.settings.disk_megabytes, self.settings.clock_offset_seconds)

    def _zygote(self, preload: tuple[str, ...]) -> Zygote:
        return self._zygotes.setdefault(preload, Zygote(preload))

    def _zygote_for(self, build: TemplateBuild) -> Zygote:
        return self._zygote(tuple(self.settings.preload_modules) if build.script else ())

    async def take(self, build: TemplateBuild) -> Slot:
        """A slot whose start command is up: a kept one or a new one. Raises SandboxHostError."""
        self._last_take = time.monotonic()
        pool = self._pools.setdefault(build.build_id, [])
        while pool:
            slot = pool.pop()
            if slot.process.alive and slot.machine == self._machine:
                self._refill(build)
                return slot
            await self.destroy(slot)
        slot = await self.make(build)
        self._refill(build)
        return slot

    def kept(self, build_id: str) -> int:
        """How many slots of this build stand ready."""
        return len(self._pools.get(build_id, []))

    def give(self, slot: Slot) -> None:
        """Keep a fresh slot for the next take."""
        self._pools.setdefault(slot.build.build_id, []).append(slot)

    def _refill(self, build: TemplateBuild) -> None:
        if build.build_id not in self._refills and not self._closing:
            task = asyncio.get_running_loop().create_task(self._fill(build))
            self._refills[build.build_id] = task

    async def _fill(self, build: TemplateBuild) -> None:
        pool = self._pools[build.build_id]
        try:
            while len(pool) < self.settings.warm_pool:
                quiet = time.monotonic() - self._last_take
                if quiet < _REFILL_QUIET_SECONDS:
                    await asyncio.sleep(_REFILL_QUIET_SECONDS - quiet)
                    continue
                pool.append(await self.make(build))
        except (SandboxHostError, TimeoutError):
            _log.exception("cannot keep a sandbox of template %s ready", build.template_id)
        finally:
            self._refills.pop(build.build_id, None)

    async def make(self, build: TemplateBuild) -> Slot:
        """A new slot: root filled, start command running and ready. Raises SandboxHostError."""
        root = self._directory / "sandboxes" / uuid4().hex / "root"
        root.mkdir(parents=True)
        root.chmod(0o755)
        layers = [str(self._skeleton), *([str(build.layer)] if build.layer else [])]
        windows = [*self._windows, *self.settings.extra_read_only_paths]
        machine = self._machine
        try:
            process = await self._zygote_for(build).spawn(root, layers, windows, machine)
        except BaseException:
            self._remove(root.parent)
            raise
        slot = Slot(build, root, process, machine)
        self._live.add(slot)
        try:
            await self._run_start_command(slot)
        except BaseException:
            await self.destroy(slot)
            raise
        return slot

    async def boot(self, slot: Slot) -> Slot:
        """A cold boot on the files of a slot whose processes are gone: empty /tmp, no start command.

        Raises SandboxHostError.
        """
        if slot.machine.disk_megabytes is not None:
            raise SandboxHostError("a limited disk is lost with the processes: no cold boot")
        await asyncio.to_thread(_empty, slot.root / "tmp")
        windows = [*self._windows, *self.settings.extra_read_only_paths]
        process = await self._zygote(()).spawn(slot.root, [], windows, slot.machine)
        booted = Slot(slot.build, slot.root, process, slot.machine)
        self._live.discard(slot)
        self._live.add(booted)
        return booted

    async def _run_start_command(self, slot: Slot) -> None:
        build = slot.build
        if not build.start_command:
            return
        config = _command(build, build.start_command)
        if self.settings.preload_modules:
            config.script = build.script
        try:
            started = await slot.table.start(config)
            if not build.ready_command:
                return
            async with asyncio.timeout(self.settings.ready_timeout_seconds):
                while True:
                    check = await slot.table.start(_command(build, build.ready_command))
                    await check.finished.wait()
                    if check.end is not None and check.end["exitCode"] == 0:
                        return
                    if started.end is not None and started.end["exitCode"] != 0:
                        raise SandboxHostError(f"start command failed: {started.end['status']}")
                    await asyncio.sleep(_READY_INTERVAL_SECONDS)
        except ConnectError as error:
            raise SandboxHostError(f"start command failed: {error.message}") from error
        except TimeoutError as error:
            raise SandboxHostError("ready command did not succeed in time") from error

    async def destroy(self, slot: Slot) -> None:
        """Kill what runs in a slot and remove its files (in the background)."""
        self._live.discard(slot)
        await slot.process.kill()
        self._remove(slot.root.parent)

    def _remove(self, directory: Path) -> None:
        task = asyncio.get_running_loop().create_task(
            asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        )
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def close(self) -> None:
        """Destroy every slot, stop the zygotes."""
        self._closing = True
        refills = list(self._refills.values())
        for task in refills:
            task.cancel()
        await asyncio.gather(*refills, return_exceptions=True)
        await asyncio.gather(*(self.destroy(slot) for slot in list(self._live)), return_exceptions=True)
        for zygote in self._zygotes.values():
            with suppress(ProcessLookupError):
                await zygote.stop()
        await asyncio.gather(*self._removals, return_exceptions=True)


def _command(build: TemplateBuild, command: str) -> ProcessConfig:
    return ProcessConfig(
        command="/bin/bash",
        arguments=["-l", "-c", command],
        environment={**base_environment(build.user), **build.environment},
        directory=build.directory,
        user=user_id(build.user),
    )


def _outermost(paths: list[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(set(paths), key=len):
        if not any(path == outer or path.startswith(outer + "/") for outer in kept):
            kept.append(path)
    return kept


def _empty(directory: Path) -> None:
    with suppress(OSError):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)
