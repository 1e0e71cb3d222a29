"""The session's directories, and what an earlier worker left of its memory stores."""

import os
import stat
from pathlib import Path

from managed_session_worker.isolation import Account
from managed_session_worker.paths import Paths
from managed_session_worker.worker_log import logger

#: The SDK puts this file at the root of each memory store that it downloads (anthropic.lib.tools._memories).
MEMORY_STORE_MARKER = ".anthropic-memory-store"
UNSYNCHRONISED_DIRECTORY = "unsynchronised-memory"
MAX_REPORTED_FILES = 1000
#: Enough for a request, the state and an exit record on a disk that the agent has filled.
RESERVE_BYTES = 256 * 1024


def make_directories(paths: Paths) -> None:
    """Make what the supervisor itself needs, closed to others where requests and state pass through."""
    for directory, mode in (
        (paths.home, 0o755),
        (paths.exits, 0o755),
        (paths.run, 0o700),
        (paths.inbox, 0o700),
    ):
        Path(directory).mkdir(parents=True, exist_ok=True)
        Path(directory).chmod(mode)


def keep_reserve(paths: Paths) -> None:
    """Hold some room back on the disk; the operator frees it when a start request finds none."""
    reserve = Path(paths.reserve)
    try:
        with reserve.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError as error:
        logger.warning("no room is held back on the disk: %s", error.strerror)
        reserve.unlink(missing_ok=True)


def give_to(account: Account, paths: Paths) -> None:
    """Make the directories that the agent works in and give them, not their content, to `account`.

    Of their content only skills are given.

    Their parents belong to root, so nobody else can put a link in their place.
    """
    for directory in (paths.workdir, paths.memory):
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0 and path.stat().st_uid != account.uid:
            os.chown(directory, account.uid, account.gid, follow_symlinks=False)
    if os.geteuid() == 0:
        try:
            _give_skills_to(account, paths)
        except OSError as error:
            # What the agent left running may change the folder meanwhile; that must not end its session.
            logger.warning("could not give all skills to the agent: %s", error.strerror)


def _give_skills_to(account: Account, paths: Paths) -> None:
    """Give the files of skills, which the operator writes as root, to `account`.

    The agent owns what is around them: no link is followed, and a file with a second name is left alone.
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
    """Remove what nobody came for: requests of claims before `claim`. Each holds a credential."""
    for request in Path(paths.inbox).glob("*.json"):
        if request.stem < claim:
            request.unlink(missing_ok=True)


def prepare_as_agent(paths: Paths, claim: str) -> list[str]:
    """With the agent's rights: make `outputs` and `skills`, move leftover memory stores aside.

    The SDK refuses a memory store whose directory exists. A marked one holds what a killed worker may not
    have sent; it is kept below the workdir, where people and the agent can find it.

    Returns:
        The paths of the files in the stores that were moved, where they are now.
    """
    workdir = Path(paths.workdir)
    for name in ("outputs", "skills"):
        try:
            (workdir / name).mkdir(exist_ok=True)
        except OSError as error:
            # The agent owns the workdir and may have put something else there; that must not end its session.
            logger.warning("could not make %s: %s", workdir / name, error.strerror)
    moved: list[str] = []
    aside = workdir / UNSYNCHRONISED_DIRECTORY / claim
    for parent in (Path(paths.memory), workdir / "memory"):
        for marker in sorted(parent.glob(f"*/{MEMORY_STORE_MARKER}")):
            try:
                aside.mkdir(parents=True, exist_ok=True)
                moved.extend(_move(marker.parent, aside))
            except OSError as error:
                logger.warning("could not move %s aside: %s", marker.parent, error.strerror)
    return moved[:MAX_REPORTED_FILES]


def _move(store: Path, aside: Path) -> list[str]:
    target = aside / store.name
    number = 1
    while target.exists():
        number += 1
        target = aside / f"{store.name}-{number}"
    store.rename(target)
    files = (path for path in sorted(target.rglob("*")) if path.is_file() and not path.is_symlink())
    return [str(path) for path in files if path.name != MEMORY_STORE_MARKER]
