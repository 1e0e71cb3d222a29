"""A process that has imported one program and forks a child for each start of it.

Its socket receives one message per start: the request's number, the program's arguments, its environment and
its folder, with the log file as a descriptor. It answers with the number and the child's process ID, and
later with the child's exit code. A child is a process like any other: the leader of its own session, with the
environment, arguments, folder and output of a start by the shell, and it dies with this process. It only
saves the imports.
"""

import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

from managed_session_devkit.simulators.e2b.namespace import messages

_PR_SET_PDEATHSIG = 1


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork children until the other end closes the socket. In a child, return what to run; else None."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                pid: int = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                messages.send(control, {"ended": pid, "code": code})
                continue
            received = messages.receive(control)
            if received is None:
                return None
            request, (log,) = received
            led, leads = os.pipe()
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                # Closed here, because their numbers will soon be those of the program's own descriptors.
                selector.close()
                control.close()
                _become_child(request, log, parent)
                return request
            os.close(log)
            os.close(leads)
            # The child closes its end once it leads a session, so that a signal to its group reaches it.
            os.read(led, 1)
            os.close(led)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            messages.send(control, {"started": pid, "number": request["number"]})


def _become_child(request: dict[str, Any], log: int, parent: int) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.argv = request["arguments"]


def main() -> None:
    """Import the program named on the command line, then serve on the descriptor named after it."""
    name, descriptor = sys.argv[1:]
    control = socket.socket(fileno=int(descriptor))
    program = importlib.import_module(name)
    # Children share the memory of what is imported. The garbage collector would write to it.
    gc.collect()
    gc.freeze()
    if serve(control) is not None:
        # The child's end is that of an interpreter which ran the program alone.
        sys.exit(program.main())


if __name__ == "__main__":
    main()
