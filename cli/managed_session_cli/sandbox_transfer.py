"""Transfers files between this machine and a running sandbox, with the rights of the agent's user there.

A program inside the sandbox (`agent_files`) reads and writes the files. E2B's own calls would do so as root,
and follow the agent's links to whatever root may read or write.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import shlex
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import IO, Any

import e2b
from managed_session_worker.paths import AS_AGENT, Paths

from managed_session_cli.clouds import SandboxGoneError, SandboxPausedError, e2b_explained, e2b_options
from managed_session_cli.errors import CommandError

_USER = "root"
_SECONDS = 600.0
"""How long a transfer may take."""
_SILENCE_SECONDS = 30.0
_LONGEST_LINE = 65_536


@dataclass(frozen=True)
class RemoteFile:
    """A file in the sandbox.

    Attributes:
        path: its path below the listed directory.
        size: in bytes.
        modified: seconds since the epoch.
    """

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class Transferred:
    """How a transfer ended.

    Attributes:
        left_out: paths of what is neither a regular file nor a directory.
        directory: whether the path in the sandbox is a directory.
    """

    left_out: list[str]
    directory: bool


@dataclass
class _Output:
    """Splits a program's output into lines, and keeps the last one."""

    take: Callable[[str], None]
    last: str = ""
    rest: str = ""
    newest: asyncio.Event = field(default_factory=asyncio.Event)

    def feed(self, chunk: str) -> None:
        *lines, self.rest = (self.rest + chunk).split("\n")
        if len(self.rest) > _LONGEST_LINE:
            raise CommandError("the sandbox answers with lines that are too long")
        self.newest.set()
        for line in lines:
            if line.startswith("{"):
                self.last = line
            if line:
                self.take(line)


class SandboxTransfer:
    """Transfers to and from one running sandbox.

    Args:
        key: E2B's API key.
        sandbox_id: the sandbox.
        paths: its paths or, in a shared one, those of the session.
    """

    def __init__(self, key: str, sandbox_id: str, paths: Paths) -> None:
        self._options = e2b_options(key)
        self._sandbox_id = sandbox_id
        self._paths = paths

    async def files(self, path: str) -> tuple[list[RemoteFile], Transferred]:
        """Return the files below `path`.

        Raises:
            CommandError: they cannot be read.
            SandboxPausedError, SandboxGoneError: the sandbox does not run (any more).
            CloudError: E2B rejected a call or did not answer.
        """
        found: list[RemoteFile] = []

        def take(line: str) -> None:
            entry = json.loads(line)
            if "path" in entry:
                found.append(RemoteFile(str(entry["path"]), int(entry["size"]), int(entry["modified"])))

        return found, await self._run(await self._connect(), ["list", path], take)

    async def download(self, path: str, archive: IO[bytes], most_bytes: int) -> Transferred:
        """Write a tar archive of the files at or below `path` (raises as `files`)."""

        def take(line: str) -> None:
            if not line.startswith("{"):
                archive.write(base64.b64decode(line, validate=True))

        return await self._run(await self._connect(), ["pack", path, str(most_bytes)], take)

    async def upload(self, archive: IO[bytes], path: str) -> Transferred:
        """Write the files of a tar archive below `path` (raises as `files`)."""
        sandbox = await self._connect()
        # In a folder of root's, so that the agent can't lead the upload elsewhere.
        file = f"{self._paths.uploads}/{uuid.uuid4().hex}.tar"
        with e2b_explained():
            await sandbox.files.write(
                file, archive, user=_USER, use_octet_stream=True, request_timeout=_SECONDS
            )
        try:
            return await self._run(sandbox, ["unpack", file, path], lambda _: None)
        finally:
            with e2b_explained():
                await sandbox.files.remove(file, user=_USER)

    async def _connect(self) -> Any:
        with e2b_explained():
            try:
                return await e2b.AsyncSandbox.connect(self._sandbox_id, **self._options)
            except e2b.SandboxNotFoundException:
                raise SandboxGoneError from None

    async def _run(self, sandbox: Any, arguments: list[str], take: Callable[[str], None]) -> Transferred:
        """Run the program and pass its lines on."""
        script = resources.files(__package__).joinpath("agent_files.py").read_text()
        words = " ".join(shlex.quote(each) for each in arguments)
        command = (
            f"{AS_AGENT}; {self._paths.find_python}; cd /; exec $as $p -I -S -c {shlex.quote(script)} {words}"
        )
        output = _Output(take)
        try:
            with e2b_explained():
                handle = await sandbox.commands.run(
                    self._paths.inside(command),
                    background=True,
                    timeout=_SECONDS,
                    user=_USER,
                    on_stdout=output.feed,
                    retain_output=False,
                )
                await self._ended(handle, output)
            end = json.loads(output.last)
            if "error" in end:
                raise CommandError(str(end["error"])[:500])
            return Transferred([str(each) for each in end["left_out"]], bool(end["directory"]))
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise CommandError("the sandbox's answer was cut short or cannot be read. Try again.") from None

    async def _ended(self, handle: Any, output: _Output) -> None:
        """Wait for the program's end, as long as it goes on writing.

        Raises:
            SandboxPausedError: the sandbox was paused meanwhile.
        """
        waiting = asyncio.ensure_future(handle.wait())
        try:
            while not waiting.done():
                output.newest.clear()
                silent = asyncio.ensure_future(output.newest.wait())
                await asyncio.wait(
                    {waiting, silent}, timeout=_SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not (silent.done() or waiting.done()):
                    raise SandboxPausedError
                silent.cancel()
            waiting.result()
        except e2b.CommandExitException:
            return
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
