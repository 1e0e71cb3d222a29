"""Turns a process that the supervisor has just forked into one of the agent's user, without root's rights."""

import asyncio
import gc
import os
import random
import signal
import ssl
from collections.abc import Iterable

from managed_session_worker.paths import Paths
from managed_session_worker.privileges import (
    Account,
    die_with_parent,
    drop_privileges,
    forbid_memory_access,
    set_memory_kill_preference,
    set_process_name,
)

MARKER_VARIABLE = "MANAGED_SESSION_SANDBOX"
"""Marks all processes that a worker's tools start; `marker` makes the value."""


def marker(paths: Paths) -> str:
    """Return the `NAME=value` that is in the environment of every command of this sandbox only.

    In a shared sandbox it is that of one session. Only root can make it there.
    """
    stat = os.stat(paths.run)  # noqa: PTH116 - differs even between two sandboxes with one process table
    return f"{MARKER_VARIABLE}={stat.st_dev}-{stat.st_ino}"


def become_agent_process(
    name: str,
    account: Account,
    *,
    workdir: str,
    log_to: int,
    keep: Iterable[int],
    supervisor: int,
    seed: bytes,
) -> None:
    """Give up root and everything that was inherited from the supervisor.

    Args:
        name: What `ps` shows as the process's name.
        account: The account to switch to.
        workdir: The directory to change to.
        log_to: Descriptor of the log file; it becomes standard output and standard error.
        keep: Further descriptors to keep open.
        supervisor: PID of the parent; this process must not outlive it.
        seed: Makes the random numbers of two sandboxes from one snapshot differ.
    """
    gc.disable()
    asyncio.set_event_loop(None)
    os.setsid()
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log_to, 1), (log_to, 2)):
        os.dup2(source, target)
    close_all_but({0, 1, 2, *keep})
    set_process_name(name)
    set_memory_kill_preference(0)
    drop_privileges(account)
    forbid_memory_access()
    die_with_parent(supervisor)
    # Two sandboxes from one snapshot have the same state of these generators; only the kernel's differs.
    seed = os.urandom(32) + seed
    random.seed(seed)
    ssl.RAND_add(seed, 0.0)
    os.umask(0o022)
    os.chdir(workdir)


def close_all_but(kept: set[int]) -> None:
    """Close all descriptors but these, by their numbers."""
    boundary = 3
    for descriptor in sorted(kept):
        if descriptor >= boundary:
            os.closerange(boundary, descriptor)
            boundary = descriptor + 1
    os.closerange(boundary, min(65536, os.sysconf("SC_OPEN_MAX")))
