"""`managed-sessions shell`: a terminal or a command in a session's sandbox, with the agent's rights."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import e2b
from managed_session_worker.paths import AS_AGENT, Paths

from managed_session_cli import terminal
from managed_session_cli.access import Access, announce
from managed_session_cli.clouds import (
    CloudError,
    SandboxGoneError,
    SandboxPausedError,
    e2b_explained,
    e2b_options,
)
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import CommandError
from managed_session_cli.installation import Installation
from managed_session_cli.sandbox_files import SandboxFiles
from managed_session_cli.session_sandbox import awake, e2b_key, paths_of, sandbox_of
from managed_session_cli.sessions import find_session

_USER = "root"
"""Who begins; the agent's user goes on. E2B's own way to another user needs one that images may lack."""
_CHECK_SECONDS = 5.0
_NO_LIMIT = 0

_AS_AGENT_AT_HOME = (
    f"{AS_AGENT}; "
    'h=$(/usr/bin/getent passwd agent | /usr/bin/cut -d: -f6); [ -n "$h" ] && export HOME="$h" USER=agent '
    "LOGNAME=agent; "
)


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Attributes:
        session: its name, ID, or a unique beginning of either.
        command: what to run instead of a shell; empty for a shell.
        resume: whether to resume a paused sandbox.
    """

    session: str
    command: tuple[str, ...]
    resume: bool


def shell(cluster: Cluster, installation: Installation, options: Options) -> int:
    """Open the shell or run the command, and return its exit status.

    Raises:
        CommandError: there is no such session or sandbox, the sandbox is paused, or access cannot be audited.
    """
    if not options.command and not terminal.is_terminal():
        raise CommandError(
            "a shell needs a terminal. To run a command: managed-sessions shell SESSION -- COMMAND"
        )
    session = find_session(cluster, installation.namespace, options.session)
    sandbox_id, key = sandbox_of(session), e2b_key(cluster, installation)
    files = SandboxFiles(key, sandbox_id)

    async def run() -> int:
        access = Access.COMMAND if options.command else Access.SHELL
        async with awake(cluster, installation, session, files, wake=options.resume, stay=options.resume):
            await asyncio.to_thread(announce, cluster, session, sandbox_id, access)
            visit = Visit(key, sandbox_id, paths_of(session), files, resume=options.resume)
            return await (visit.run(options.command) if options.command else visit.open())

    try:
        return asyncio.run(run())
    except SandboxGoneError:
        raise CommandError(
            f"E2B no longer knows the sandbox {sandbox_id} of {session.metadata.name}"
        ) from None
    except SandboxPausedError:
        raise CommandError(
            f"the sandbox {sandbox_id} is paused. Use --resume to resume it, which E2B bills, and to "
            "pause it again at the end."
        ) from None


class Visit:
    """One person's shell or command in a running sandbox.

    Args:
        key: E2B's API key.
        sandbox_id: the sandbox.
        paths: its paths or, in a shared one, those of the session.
        files: says whether the sandbox is paused, without waking it.
        resume: whether a shell goes on when the sandbox is paused, which then is resumed.
    """

    def __init__(self, key: str, sandbox_id: str, paths: Paths, files: SandboxFiles, *, resume: bool) -> None:
        self._resume = resume
        self._options = e2b_options(key)
        self._sandbox_id = sandbox_id
        self._paths = paths
        self._files = files

    async def run(self, command: Sequence[str]) -> int:
        """Run a command with its output on this process's, and return its exit status (raises as `shell`)."""
        words = shlex.join(command)
        inside = self._paths.inside(f"{_AS_AGENT_AT_HOME} cd {self._paths.workdir} && exec $as {words}")
        with e2b_explained():
            sandbox = await self._connect()
            handle = await sandbox.commands.run(
                f"exec /bin/sh -c {shlex.quote(inside)}",
                background=True,
                timeout=_NO_LIMIT,
                user=_USER,
                on_stdout=lambda text: _print(text, sys.stdout),
                on_stderr=lambda text: _print(text, sys.stderr),
                retain_output=False,
            )
            return await self._ended(handle)

    async def open(self) -> int:
        """Give the user's terminal to a shell, and return its exit status (raises as `shell`)."""
        screen = _Screen()
        with e2b_explained():
            sandbox = await self._connect()
            size = terminal.size()
            handle = await sandbox.pty.create(
                size=e2b.PtySize(rows=size.rows, cols=size.columns),
                on_data=screen.show,
                user=_USER,
                cwd="/",
                envs={"TERM": os.environ.get("TERM", "xterm-256color"), "HISTFILE": "/dev/null"},
                timeout=_NO_LIMIT,
            )
        login = f"{_AS_AGENT_AT_HOME} cd {self._paths.workdir}; {screen.begin}; exec $as /bin/bash -il"
        inside = shlex.quote(self._paths.inside(login))
        with terminal.raw(), e2b_explained():
            await sandbox.pty.send_stdin(handle.pid, f" exec /bin/sh -c {inside}\n".encode())
            while True:
                try:
                    return await self._ended(handle, *_passing_on(sandbox, handle.pid))
                except SandboxPausedError:
                    if not self._resume:
                        raise
                await self._files.wake()
                sandbox = await self._connect()
                handle = await sandbox.pty.connect(handle.pid, on_data=screen.show, timeout=_NO_LIMIT)

    async def _connect(self) -> Any:
        try:
            return await e2b.AsyncSandbox.connect(self._sandbox_id, **self._options)
        except e2b.SandboxNotFoundException:
            raise SandboxGoneError from None

    async def _ended(self, handle: Any, *beside: Callable[[], Awaitable[None]]) -> int:
        """Wait for the program's end, and do other things meanwhile. Notice if the sandbox is paused."""
        ending = asyncio.ensure_future(_exit_status(handle))
        watching = asyncio.ensure_future(self._until_paused())
        others = [asyncio.ensure_future(each()) for each in beside]
        try:
            await asyncio.wait({ending, watching, *others[:1]}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching
            if not (ending.done() and ending.exception() is None) and await self._files.paused():
                raise SandboxPausedError
            if not ending.done():
                await others[0]
                # The terminal was closed, and nobody will read what the program writes.
                await handle.kill()
            return await ending
        finally:
            for each in (ending, watching, *others):
                each.cancel()
            await asyncio.gather(ending, watching, *others, return_exceptions=True)

    async def _until_paused(self) -> None:
        """Look now and then, without waking it, whether the sandbox still runs.

        Raises:
            SandboxPausedError, SandboxGoneError: it does not.
        """
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            with suppress(CloudError):
                if await self._files.paused():
                    raise SandboxPausedError


def _passing_on(sandbox: Any, pid: int) -> tuple[Callable[[], Awaitable[None]], ...]:
    """Return what passes on the keys that are typed, and the terminal's changes of size."""

    async def typed() -> None:
        async for keys in terminal.keys():
            await sandbox.pty.send_stdin(pid, keys)

    async def resized() -> None:
        async for now in terminal.sizes():
            await sandbox.pty.resize(pid, e2b.PtySize(rows=now.rows, cols=now.columns))

    return typed, resized


class _Screen:
    """Shows a terminal's output from the moment on when the user's shell begins."""

    def __init__(self) -> None:
        first, second = uuid.uuid4().hex, uuid.uuid4().hex
        self.begin = f"printf '%s%s' {first} {second}"
        """A shell command that marks the beginning. Its echo does not: there is a blank in between."""
        self._mark: bytes | None = (first + second).encode()
        self._before = b""

    def show(self, data: bytes) -> None:
        if self._mark is None:
            terminal.write(data)
            return
        self._before += data
        _, found, rest = self._before.partition(self._mark)
        if found:
            self._mark, self._before = None, b""
            terminal.write(rest)


def _print(text: str, stream: Any) -> None:
    stream.write(text)
    stream.flush()


async def _exit_status(handle: Any) -> int:
    try:
        await handle.wait()
    except e2b.CommandExitException as ended:
        return int(ended.exit_code) if ended.exit_code >= 0 else 255
    return 0
