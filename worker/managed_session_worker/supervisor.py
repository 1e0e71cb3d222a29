"""Waits in every sandbox, with `anthropic` imported, and forks a worker within milliseconds.

    /opt/anthropic-managed-agents/python/bin/python3 -I -S …/lib/managed_session_worker/supervisor.py

The process is part of the template's snapshot, so its start must not depend on the clock, on entropy or on
variables that are set when a sandbox is created. It first closes what E2B leaves open. It does not serve a
sandbox in which others than root could change what it runs. In a sandbox that several sessions share, it
forks a supervisor for each of them (see `session_supervisor`).
"""

import argparse
import gc
import logging
import os
import sys
from functools import partial
from pathlib import Path

if __package__ in (None, ""):  # Run by path: make the package importable instead of its single modules.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != _here)]

from managed_session_worker import preload
from managed_session_worker.hardening import audit_files, audit_loaded_code, harden, summary
from managed_session_worker.neighbours import Neighbours
from managed_session_worker.paths import Paths
from managed_session_worker.prepare import AGENT_ACCOUNT
from managed_session_worker.privileges import (
    Account,
    become_subreaper,
    forbid_memory_access,
    set_memory_kill_preference,
)
from managed_session_worker.session_supervisor import enter
from managed_session_worker.supervisor_lock import take_lock
from managed_session_worker.supervisor_socket import SupervisorSocket
from managed_session_worker.worker_manager import WorkerManager
from managed_session_worker.workspace import give_to, keep_reserve, make_directories

SUPERVISOR_MEMORY_SCORE = -900
"""When memory is short, the kernel should kill a tool and not the process that has to report it."""

logger = logging.getLogger("managed_session_worker.supervisor")


def main(arguments: list[str] | None = None) -> int:
    """Run the supervisor; return 0 after SIGTERM, or at once if another one serves this sandbox."""
    parser = argparse.ArgumentParser(description="Supervise the worker of one sandbox.")
    parser.add_argument("--account", default=AGENT_ACCOUNT, help="user to run workers as, where it exists")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    paths = Paths.from_environment()
    make_directories(paths)
    keep_reserve(paths)
    # The descriptor stays open, and so the lock is held, as long as this process lives.
    if take_lock(paths) is None:
        logger.info("another supervisor serves this sandbox already")
        return 0
    os.chdir("/")
    return _serve(paths, Account.find(options.account))


def _serve(paths: Paths, account: Account) -> int:
    """Serve this sandbox until SIGTERM, unless others than root could change what runs as root."""
    Path(paths.refusal).unlink(missing_ok=True)
    harden(paths)
    if found := audit_files(paths, account):
        return _refuse(paths, found)
    become_subreaper()
    forbid_memory_access()
    set_memory_kill_preference(SUPERVISOR_MEMORY_SCORE)
    give_to(account, paths)
    preload.load()
    if found := audit_loaded_code(paths, account):
        return _refuse(paths, found)
    gc.collect()
    Path(paths.interpreter).write_text(sys.executable)
    manager = WorkerManager(paths, account, Neighbours(paths), partial(enter, paths, account))
    manager.recover()
    logger.info("workers run as %s (uid %d)", account.name, account.uid)
    SupervisorSocket(paths, manager).run()
    return 0


def _refuse(paths: Paths, found: list[str]) -> int:
    """Write why this sandbox is not served: to the file that `supervisorctl` reads, and to the log."""
    reason = f"others than root could change what runs as root: {summary(found)}"
    logger.error("refusing to serve this sandbox: %s", reason)
    Path(paths.refusal).write_text(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
