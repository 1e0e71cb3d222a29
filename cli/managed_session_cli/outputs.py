"""`managed-sessions outputs` and `cp`: files between a session's sandbox and this machine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

from managed_session_worker.paths import Paths
from rich.console import Console
from rich.table import Table

from managed_session_cli.access import Access, announce
from managed_session_cli.clouds import SandboxGoneError, SandboxPausedError
from managed_session_cli.cluster import Cluster
from managed_session_cli.errors import CommandError
from managed_session_cli.installation import Installation
from managed_session_cli.local_files import pack_files, printable, write_files
from managed_session_cli.sandbox_files import SandboxFiles
from managed_session_cli.sandbox_transfer import RemoteFile, SandboxTransfer
from managed_session_cli.session_sandbox import awake, e2b_key, paths_of, sandbox_of
from managed_session_cli.sessions import find_session

WORKDIR = Paths().workdir
OUTPUTS = f"{WORKDIR}/outputs"
_MIB = 1024**2

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The options that both commands have.

    Attributes:
        wake: whether to resume a paused sandbox, and pause it again.
        most_mib: the most that a download may bring, in MiB.
    """

    wake: bool
    most_mib: int


def outputs(
    cluster: Cluster,
    installation: Installation,
    session: str,
    download: Path | None,
    options: Options,
    console: Console,
) -> None:
    """List the session's outputs, or download them.

    Raises:
        CommandError: there is no such session, no sandbox, or it is paused and stays so.
    """
    if download is not None:
        _download(cluster, installation, session, OUTPUTS, download, options, console)
        return
    files, ended = _with_sandbox(
        cluster, installation, session, options, Access.LIST, lambda each: each.files(OUTPUTS)
    )
    console.print(_table(files) if files else f"{OUTPUTS} has no files.")
    _report(ended.left_out)


def copy(
    cluster: Cluster,
    installation: Installation,
    source: str,
    target: str,
    options: Options,
    console: Console,
) -> None:
    """Copy a file or a directory from or to a sandbox (raises as `outputs`)."""
    there, here = _remote(source), _remote(target)
    if (there is None) == (here is None):
        raise CommandError(
            "one of the two must be in a sandbox, as SESSION:PATH, and the other one on this machine. "
            "Write ./ before a local path with a colon."
        )
    if there is not None:
        local = Path(target)
        if local.is_dir() or target.endswith("/"):
            local /= PurePosixPath(there[1]).name
        _download(cluster, installation, there[0], there[1], local, options, console)
    elif here is not None:
        _upload(cluster, installation, here[0], Path(source), here[1], options, console)


def _download(
    cluster: Cluster,
    installation: Installation,
    session: str,
    path: str,
    target: Path,
    options: Options,
    console: Console,
) -> None:
    with tempfile.TemporaryFile() as archive:
        ended = _with_sandbox(
            cluster,
            installation,
            session,
            options,
            Access.READ,
            lambda each: each.download(path, archive, options.most_mib * _MIB),
        )
        archive.seek(0)
        written = write_files(archive, target, single=not ended.directory)
    what = f"1 file written to {target}" if len(written) == 1 else f"{len(written)} files written to {target}"
    console.print(what, markup=False)
    _report(ended.left_out)


def _upload(
    cluster: Cluster,
    installation: Installation,
    session: str,
    source: Path,
    path: str,
    options: Options,
    console: Console,
) -> None:
    if not source.exists():
        raise CommandError(f"{source} does not exist")
    final = PurePosixPath(path) / source.name if path.endswith("/") else PurePosixPath(path)
    target, name = (final, "") if source.is_dir() else (final.parent, final.name)
    with tempfile.TemporaryFile() as archive:
        left_out = pack_files(source, name, archive)
        archive.seek(0)
        ended = _with_sandbox(
            cluster,
            installation,
            session,
            options,
            Access.WRITE,
            lambda each: each.upload(archive, str(target)),
        )
    console.print(f"{source} written to {final}", markup=False)
    _report([*left_out, *ended.left_out])


def _remote(argument: str) -> tuple[str, str] | None:
    """Return session and path of `SESSION:PATH`; None for a local path.

    A path that is not absolute is below the session's directory.
    """
    session, colon, path = argument.partition(":")
    if not colon or "/" in session or not session:
        return None
    return session, str(PurePosixPath(WORKDIR, path)) + ("/" if path.endswith("/") else "")


def _with_sandbox(
    cluster: Cluster,
    installation: Installation,
    name: str,
    options: Options,
    access: Access,
    transfer: Callable[[SandboxTransfer], Awaitable[T]],
) -> T:
    session = find_session(cluster, installation.namespace, name)
    sandbox_id = sandbox_of(session)
    key = e2b_key(cluster, installation)

    async def run() -> T:
        async with awake(cluster, installation, session, SandboxFiles(key, sandbox_id), wake=options.wake):
            await asyncio.to_thread(announce, cluster, session, sandbox_id, access)
            return await transfer(SandboxTransfer(key, sandbox_id, paths_of(session)))

    try:
        return asyncio.run(run())
    except SandboxGoneError:
        raise CommandError(
            f"E2B no longer knows the sandbox {sandbox_id} of {session.metadata.name}: its files are lost"
        ) from None
    except SandboxPausedError:
        again = (
            "it was paused during the transfer. Transfer less at once"
            if options.wake
            else "it is paused. Use --wake to resume it for the transfer and pause it again, which E2B bills"
        )
        raise CommandError(f"the sandbox {sandbox_id} does not run: {again}.") from None


def _table(files: list[RemoteFile]) -> Table:
    table = Table(box=None, header_style="", pad_edge=False)
    table.add_column("BYTES", justify="right")
    table.add_column("MODIFIED")
    table.add_column("PATH", overflow="fold")
    for each in files:
        modified = datetime.fromtimestamp(each.modified, UTC)
        table.add_row(str(each.size), f"{modified:%Y-%m-%d %H:%M:%S} UTC", printable(each.path))
    return table


def _report(left_out: list[str]) -> None:
    if left_out:
        names = ", ".join(printable(each) for each in left_out)
        Console(stderr=True, highlight=False, emoji=False, soft_wrap=True).print(
            f"Left out, because they are links or special files: {names}", style="dim", markup=False
        )
