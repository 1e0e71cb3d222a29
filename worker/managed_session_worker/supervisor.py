"""The process that waits in every sandbox, with `anthropic` imported, to fork a worker in milliseconds.

    python3 /opt/anthropic-managed-agents/lib/managed_session_worker/supervisor.py [--account NAME]

It is part of the template's snapshot: when it starts it relies on no clock, entropy or create-time variable.
"""

import argparse
import fcntl
import gc
import logging
import os
import sys
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the package importable, not its modules one by one
    _here = Path(__file__).resolve().parent
    sys.path[:] = [str(_here.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != _here)]

from managed_session_worker import preload
from managed_session_worker.claims import Claims
from managed_session_worker.isolation import (
    Account,
    become_subreaper,
    forbid_memory_access,
    set_memory_kill_preference,
)
from managed_session_worker.paths import Paths
from managed_session_worker.server import Server
from managed_session_worker.workspace import give_to, keep_reserve, make_directories

#: The template makes this user for the worker and the agent's commands.
AGENT_ACCOUNT = "agent"
#: The kernel should kill a memory-hungry tool, not the process that has to notice it.
SUPERVISOR_MEMORY_SCORE = -900

logger = logging.getLogger("managed_session_worker.supervisor")


def main(arguments: list[str] | None = None) -> int:
    """Run the supervisor; returns 0 after SIGTERM, or at once if another one serves this sandbox."""
    parser = argparse.ArgumentParser(description="Supervise the worker of one sandbox.")
    parser.add_argument("--account", default=AGENT_ACCOUNT, help="user to run workers as, where it exists")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    paths = Paths.from_environment()
    make_directories(paths)
    keep_reserve(paths)
    # Held open, and with it the lock, as long as this process lives.
    lock = Path(paths.lock).open("w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("another supervisor serves this sandbox already")
        return 0
    os.chdir("/")
    account = Account.find(options.account)
    become_subreaper()
    forbid_memory_access()
    set_memory_kill_preference(SUPERVISOR_MEMORY_SCORE)
    give_to(account, paths)
    preload.load()
    gc.collect()
    Path(paths.interpreter).write_text(sys.executable)
    claims = Claims(paths, account)
    claims.recover()
    logger.info("workers run as %s (uid %d)", account.name, account.uid)
    Server(paths, claims).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
