"""Makes the processes of sandboxes from a template build, starts its command, and keeps some ready."""

import asyncio
import base64
import logging
import os
import re
import shlex
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from managed_session_devkit.simulators.e2b.errors import ConnectError
from managed_session_devkit.simulators.e2b.host import (
    Disk,
    Machine,
    SandboxHostError,
    SandboxProcess,
    Zygote,
)
from managed_session_devkit.simulators.e2b.namespace import image
from managed_session_devkit.simulators.e2b.namespace import root as root_file_system
from managed_session_devkit.simulators.e2b.processes import ProcessConfig, ProcessTable
from managed_session_devkit.simulators.e2b.settings import Settings
from managed_session_devkit.simulators.e2b.stub_machine import StubMachine

_log = logging.getLogger(__name__)
_CHOICE: Final = re.compile(r"\[ -x (?P<program>/\S+) \] && exec (?P<then>[^;]+); exec (?P<otherwise>.+)")
"""The only supported conditional command: run a program if it is installed, else another one."""
_SHELL_SYNTAX: Final = frozenset("|&;<>()$`\\*?[]#~={}\n!")
_SIMPLE_FLAGS: Final = frozenset("ISuBEsqP")
_LONGEST_COMPLAINT: Final = 500
_READY_INTERVAL_SECONDS: Final = 0.05
_REFILL_QUIET_SECONDS: Final = 0.25


@dataclass
class TemplateBuild:
    """The result of a build: a layer of files, and the commands whose processes each sandbox starts with."""

    template_id: str
    build_id: str
    layer: Path | None = None
    shared: tuple[str, ...] = ()
    user: str = "user"
    directory: str = "/home/user"
    environment: dict[str, str] = field(default_factory=dict)
    start_command: str = ""
    ready_command: str = ""
    lacks: frozenset[str] = frozenset()
    cpu_count: int = 2
    memory_mb: int = 1024

    @property
    def script(self) -> list[str] | None:
        """The start command's interpreter, flags, script and arguments, if it runs just a script."""
        choice = _CHOICE.fullmatch(self.start_command)
        if choice is None:
            return python_script(self.start_command)
        there = self.layer is not None and (self.layer / choice["program"].lstrip("/")).exists()
        return python_script(choice["then" if there else "otherwise"])


def python_script(command: str) -> list[str] | None:
    """Split a plain `[exec] python3 [-flags] script.py …` into its parts. Return None for other commands."""
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
    interpreter, *words = words
    flags = ""
    while words and words[0].startswith("-") and set(words[0][1:]) <= _SIMPLE_FLAGS and words[0] != "-":
        flags += words[0][1:]
        words = words[1:]
    if not words or not words[0].endswith(".py") or not words[0].startswith("/"):
        return None
    return [interpreter, flags, *words]


def is_script(command: str) -> bool:
    """Return whether a build step runs just a script of the template: with Python, or with `sh`."""
    words = command.split()
    shell = len(words) == 2 and words[0] == "sh" and words[1].startswith("/opt/") and words[1].endswith(".sh")
    return shell or python_script(command) is not None


def user_id(name: str) -> int:
    """Return the uid of a sandbox user. Raises ConnectError if it does not exist."""
    known = {"": root_file_system.USER_ID, "user": root_file_system.USER_ID, "root": 0}
    if name not in known:
        raise ConnectError("unauthenticated", f"invalid username: '{name}'")
    return known[name]


def home_directory(name: str) -> str:
    """Return the home of a sandbox user."""
    return "/root" if name == "root" else "/home/user"


def base_environment(user: str) -> dict[str, str]:
    """Return the variables that envd gives every process."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": home_directory(user), "USER": user, "LOGNAME": user}


class Runtime:
    """A root directory, with the processes that run in it."""

    def __init__(self, build: TemplateBuild, root: Path, process: SandboxProcess, machine: Machine) -> None:
        self.build = build
        self.root = root
        self.process = process
        self.machine = machine
        self.table = ProcessTable(process)

    @property
    def files(self) -> Path:
        """The host's path of the sandbox's files. A limited disk is mounted only inside."""
        if self.machine.disk_megabytes is None:
            return self.root
        return Path(f"/proc/{self.process.host_pid}/root")


class RuntimePool:
    """Makes runtimes, keeps some ready, and destroys them."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self.skeleton = directory / "skeleton"
        self.volumes = directory / "volumes"
        self.settings = settings
        self._zygotes: dict[tuple[str, ...], Zygote] = {}
        self._pools: dict[str, list[Runtime]] = {}
        self._refills: dict[str, asyncio.Task[None]] = {}
        self._live: set[Runtime] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._last_take = 0.0
        self._closing = False
        windows = [*root_file_system.system_windows(), sys.prefix, sys.base_prefix]
        executable = Path(sys.executable).resolve()
        windows.append(str(executable.parent))
        self._windows = _outermost(windows)

    async def open(self) -> None:
        """Prepare the common files, and check that sandboxes can run here. Raises SandboxHostError."""
        self.skeleton.mkdir()
        self.volumes.mkdir()
        await asyncio.to_thread(root_file_system.build_skeleton, self.skeleton)
        await self._zygote(()).start()

    @property
    def privileged(self) -> bool:
        """Whether sandboxes run as the host's root user, so that root and user differ inside."""
        return self._zygote(()).privileged

    @property
    def _machine(self) -> Machine:
        settings = self.settings
        return Machine(settings.disk_megabytes, settings.clock_offset_seconds, settings.fuse)

    def _zygote(self, preload: tuple[str, ...]) -> Zygote:
        return self._zygotes.setdefault(preload, Zygote(preload))

    def _zygote_for(self, build: TemplateBuild) -> Zygote:
        return self._zygote(tuple(self.settings.preload_modules) if build.script else ())

    async def take(self, build: TemplateBuild) -> Runtime:
        """Return a runtime whose start command runs, either kept ready or new. Raises SandboxHostError."""
        self._last_take = time.monotonic()
        pool = self._pools.setdefault(build.build_id, [])
        while pool:
            runtime = pool.pop()
            if runtime.process.alive and runtime.machine == self._machine:
                self._refill(build)
                return runtime
            await self.destroy(runtime)
        runtime = await self.make(build)
        self._refill(build)
        return runtime

    def kept(self, build_id: str) -> int:
        """Return how many runtimes of this build are ready."""
        return len(self._pools.get(build_id, []))

    def give(self, runtime: Runtime) -> None:
        """Keep an unused runtime for the next `take`."""
        self._pools.setdefault(runtime.build.build_id, []).append(runtime)

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

    async def make(self, build: TemplateBuild) -> Runtime:
        """Make a runtime with a filled root and a ready start command. Raises SandboxHostError."""
        root = self._directory / "sandboxes" / uuid4().hex / "root"
        root.mkdir(parents=True)
        root.chmod(0o755)
        machine = self._machine
        try:
            if self.settings.stub_workers:
                process = await StubMachine.spawn(root, build.directory, build.start_command)
            else:
                process = await self._zygote_for(build).spawn(
                    root, self._disk(build), self._all_windows(), machine, populate=True, volumes=self.volumes
                )
        except BaseException:
            self._remove(root.parent)
            raise
        runtime = Runtime(build, root, process, machine)
        self._live.add(runtime)
        try:
            await self._run_start_command(runtime)
        except BaseException:
            await self.destroy(runtime)
            raise
        return runtime

    async def boot(self, runtime: Runtime) -> Runtime:
        """Cold-boot from the files of a runtime without processes: empty /tmp, no start command.

        Raises SandboxHostError.
        """
        if runtime.machine.disk_megabytes is not None:
            raise SandboxHostError("a limited disk is lost with the processes: no cold boot")
        await asyncio.to_thread(_empty, runtime.root / "tmp")
        process = await self._zygote(()).spawn(
            runtime.root,
            self._disk(runtime.build),
            self._all_windows(),
            runtime.machine,
            populate=False,
            volumes=self.volumes,
        )
        booted = Runtime(runtime.build, runtime.root, process, runtime.machine)
        self._live.discard(runtime)
        self._live.add(booted)
        return booted

    def _disk(self, build: TemplateBuild) -> Disk:
        return Disk(build.layer or self.skeleton, build.shared, image.hidden(build.lacks))

    def _all_windows(self) -> list[str]:
        return [*self._windows, *self.settings.extra_read_only_paths]

    async def run_step(self, build: TemplateBuild, layer: Path, command: str) -> tuple[int, str]:
        """Run a command on a layer that is being built, as the build's user.

        Return its exit code and output. Raises SandboxHostError.
        """
        process = await self._zygote(()).spawn(
            layer,
            Disk(layer, hidden=image.hidden(build.lacks)),
            self._all_windows(),
            Machine(),
            populate=False,
        )
        try:
            started = await ProcessTable(process).start(_command(build, command))
            output = started.listen()
            await started.finished.wait()
        except ConnectError as error:
            raise SandboxHostError(error.message) from error
        finally:
            await process.kill()
        # As in envd's messages, an exit status of 0 is omitted.
        return (started.end or {"exitCode": -1}).get("exitCode", 0), _output_so_far(output)

    async def _run_start_command(self, runtime: Runtime) -> None:
        build = runtime.build
        if not build.start_command:
            return
        config = _command(build, build.start_command)
        if self.settings.preload_modules:
            config.script = build.script
        try:
            started = await runtime.table.start(config)
            if not build.ready_command:
                return
            output = started.listen()
            async with asyncio.timeout(self.settings.ready_timeout_seconds):
                while True:
                    check = await runtime.table.start(_command(build, build.ready_command))
                    await check.finished.wait()
                    if check.end is not None and check.end.get("exitCode", 0) == 0:
                        started.stop_listening(output)
                        return
                    if started.end is not None and started.end.get("exitCode", 0) != 0:
                        complaint = _output_so_far(output)[-_LONGEST_COMPLAINT:]
                        raise SandboxHostError(f"start command failed: {started.end['status']}: {complaint}")
                    await asyncio.sleep(_READY_INTERVAL_SECONDS)
        except ConnectError as error:
            raise SandboxHostError(f"start command failed: {error.message}") from error
        except TimeoutError as error:
            raise SandboxHostError("ready command did not succeed in time") from error

    async def destroy(self, runtime: Runtime) -> None:
        """Kill the processes of a runtime, and remove its files in the background."""
        self._live.discard(runtime)
        await runtime.process.kill()
        self._remove(runtime.root.parent)

    def _remove(self, directory: Path) -> None:
        task = asyncio.get_running_loop().create_task(
            asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        )
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def close(self) -> None:
        """Destroy every runtime, and stop the zygotes."""
        self._closing = True
        refills = list(self._refills.values())
        for task in refills:
            task.cancel()
        await asyncio.gather(*refills, return_exceptions=True)
        await asyncio.gather(*(self.destroy(runtime) for runtime in list(self._live)), return_exceptions=True)
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


def _output_so_far(output: "asyncio.Queue[dict[str, Any] | None]") -> str:
    """Return what a process has written so far."""
    chunks = []
    while not output.empty() and (event := output.get_nowait()) is not None:
        chunks += [base64.b64decode(text).decode(errors="replace") for text in event["data"].values()]
    return "".join(chunks)


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
