"""The session's directories, and what an earlier worker left of its memory stores."""

import os
from pathlib import Path

from managed_session_worker.isolation import Account
from managed_session_worker.paths import Paths

#: The SDK puts this file at the root of each memory store that it downloads (anthropic.lib.tools._memories).
MEMORY_STORE_MARKER = ".anthropic-memory-store"
UNSYNCHRONISED_DIRECTORY = "unsynchronised-memory"
MAX_REPORTED_FILES = 1000


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


def give_to(account: Account, paths: Paths) -> None:
    """Make the directories that the agent works in and give them, not their content, to `account`.

    Their parents belong to root, so nobody else can put a link in their place.
    """
    for directory in (paths.workdir, paths.memory):
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0 and path.stat().st_uid != account.uid:
            os.chown(directory, account.uid, account.gid, follow_symlinks=False)


def prepare_as_agent(paths: Paths, claim: str) -> list[str]:
    """With the agent's rights: make `outputs` and `skills`, move leftover memory stores aside.

    The SDK refuses a memory store whose directory exists. A marked one holds what a killed worker may not
    have sent; it is kept below the workdir, where people and the agent can find it.

    Returns:
        The paths of the files in the stores that were moved, where they are now.
    """
    workdir = Path(paths.workdir)
    for name in ("outputs", "skills"):
        (workdir / name).mkdir(exist_ok=True)
    moved: list[str] = []
    aside = workdir / UNSYNCHRONISED_DIRECTORY / claim
    for parent in (Path(paths.memory), workdir / "memory"):
        if not parent.is_dir():
            continue
        for store in sorted(parent.iterdir()):
            if store.is_symlink() or not (store / MEMORY_STORE_MARKER).is_file():
                continue
            aside.mkdir(parents=True, exist_ok=True)
            moved.extend(_move(store, aside))
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
