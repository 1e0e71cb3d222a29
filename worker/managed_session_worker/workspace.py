"""Prepares the session's directories, and moves aside memory stores that an earlier worker left behind."""

import os
import stat
from pathlib import Path

from managed_session_worker.paths import Paths
from managed_session_worker.privileges import Account
from managed_session_worker.worker_log import logger

MEMORY_STORE_MARKER = ".anthropic-memory-store"
"""The SDK puts this file into each memory store that it downloads (anthropic.lib.tools._memories)."""
UNSYNCHRONISED_DIRECTORY = "unsynchronised-memory"
MAX_REPORTED_FILES = 1000
RESERVE_BYTES = 256 * 1024
"""Enough for a request, the state and an exit record on a disk that the agent has filled."""


def make_directories(paths: Paths) -> None:
    """Make the supervisor's own directories. Only root can enter those with requests and state.

    In a shared sandbox, those that a session works in are entered through its mount namespace only.
    """
    private = [paths.run, paths.inbox]
    if paths.session:
        private = [str(Path(paths.own).parent), paths.own, *private]
    for directory, mode in (
        (paths.home, 0o755),
        *((directory, 0o700) for directory in private),
        (paths.exits, 0o755),
    ):
        Path(directory).mkdir(parents=True, exist_ok=True)
        Path(directory).chmod(mode)


def keep_reserve(paths: Paths) -> None:
    """Reserve some disk space, which the operator frees if a start request finds none."""
    reserve = Path(paths.reserve)
    try:
        with reserve.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError as error:
        logger.warning("could not reserve disk space: %s", error.strerror)
        reserve.unlink(missing_ok=True)


def give_to(account: Account, paths: Paths) -> None:
    """Make the directories that the agent works in, and make `account` their owner.

    Their content keeps its owner, except for skills. The parents belong to root, so nobody else can replace
    a directory with a link. The agent may have closed a directory even to itself; the next worker
    can enter it.
    """
    for directory in (paths.workdir, paths.memory):
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0 and path.stat().st_uid != account.uid:
            os.chown(directory, account.uid, account.gid, follow_symlinks=False)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            path.chmod(mode | stat.S_IRWXU)
    if os.geteuid() == 0:
        try:
            _give_skills_to(account, paths)
        except OSError as error:
            # The agent's background processes may change the folder meanwhile. That must not end its session.
            logger.warning("could not give all skills to the agent: %s", error.strerror)


def _give_skills_to(account: Account, paths: Paths) -> None:
    """Make `account` the owner of the skills' files, which the operator writes as root.

    The agent owns the folder around them, so links are not followed and files with a second name are skipped.
    """
    skills = Path(paths.workdir) / "skills"
    if skills.is_symlink() or not skills.is_dir():
        return
    for _, _, files, folder in os.fwalk(skills, follow_symlinks=False):
        os.fchown(folder, account.uid, account.gid)
        for name in files:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid != account.uid:
                os.chown(name, account.uid, account.gid, dir_fd=folder, follow_symlinks=False)


def remove_stale_requests(paths: Paths, claim: str) -> None:
    """Remove unused requests of claims before `claim`. Each holds a credential."""
    for request in Path(paths.inbox).glob("*.json"):
        if request.stem < claim:
            request.unlink(missing_ok=True)


def prepare_as_agent(paths: Paths, claim: str) -> list[str]:
    """Make `outputs` and `skills`, and move leftover memory stores aside, all with the agent's rights.

    The SDK does not download a memory store whose directory exists. A store with a marker may hold files that
    a killed worker has not uploaded. It is kept below the workdir, where people and the agent can find it.

    Returns:
        The new paths of the files in the stores that were moved.
    """
    workdir = Path(paths.workdir)
    for name in ("outputs", "skills"):
        try:
            (workdir / name).mkdir(exist_ok=True)
        except OSError as error:
            # The agent owns the workdir and may have put a file there. That must not end its session.
            logger.warning("could not make %s: %s", workdir / name, error.strerror)
    aside = aside_of(paths, claim)
    for parent in (Path(paths.memory), workdir / "memory"):
        for marker in sorted(parent.glob(f"*/{MEMORY_STORE_MARKER}")):
            try:
                move_aside(marker.parent, aside)
            except OSError as error:
                logger.warning("could not move %s aside: %s", marker.parent, error.strerror)
    return leftovers_in(aside)


def aside_of(paths: Paths, claim: str) -> Path:
    """Return where leftover memory stores are kept that the worker of `claim` has found."""
    return Path(paths.workdir) / UNSYNCHRONISED_DIRECTORY / claim


def move_aside(store: Path, aside: Path) -> None:
    """Move a leftover memory store into `aside`, under its own name if that is free. Raises OSError."""
    aside.mkdir(parents=True, exist_ok=True)
    target = aside / store.name
    number = 1
    while target.is_symlink() or target.exists():
        number += 1
        target = aside / f"{store.name}-{number}"
    store.rename(target)


def leftovers_in(aside: Path) -> list[str]:
    """Return the files of the stores that were moved to `aside`."""
    files = (path for path in sorted(aside.rglob("*")) if path.is_file() and not path.is_symlink())
    return [str(path) for path in files if path.name != MEMORY_STORE_MARKER][:MAX_REPORTED_FILES]
