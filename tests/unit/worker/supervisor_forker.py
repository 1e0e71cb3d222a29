"""Starts supervisors from one process that has imported `anthropic`, which saves a second for each.

Reads one JSON line per supervisor from stdin ({"program", "root", "account"}) and answers with its pid.
"""

import json
import os
import runpy
import signal
import sys

from managed_session_worker import preload
from managed_session_worker.paths import ROOT_VARIABLE


def become_supervisor(order: dict[str, str]) -> None:
    """Run the program as if the interpreter had just been started with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.environ[ROOT_VARIABLE] = order["root"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "managed_session_worker"]:
        del sys.modules[name]
    sys.argv = [order["program"], "--account", order["account"]]
    runpy.run_path(order["program"], run_name="__main__")


def main() -> None:
    preload.load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become_supervisor(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
