"""Runs a command that does not outlive the process that started it. Arguments: PARENT-PID COMMAND...

This is a program, because a preexec function is unsafe in a process with threads. The command replaces it, so
process ID, group, input and output stay the same. On Linux the kernel kills the command when the parent ends
in any way, or more exactly the parent's thread that started it: PR_SET_PDEATHSIG in prctl(2). macOS has
nothing like it, so there only a clean exit stops the command.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Request the signal, check that the parent still lives, and become the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    # The parent may have ended before the request above took effect.
    if os.getppid() != int(parent):
        sys.exit("the process that started this command is gone")
    os.execv(command[0], command)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
