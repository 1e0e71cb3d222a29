"""Where everything lives inside a sandbox. Strings and `os.path` only: `attach` must start quickly."""

# ruff: noqa: PTH100, PTH118

import os

#: Tests (never the product) move the whole tree below another directory with this variable.
ROOT_VARIABLE = "MANAGED_SESSION_ROOT"
SOCKET_NAME = "supervisor.sock"


class Paths:
    """All paths of one sandbox, below `root` ("/" in a real one)."""

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)
        self.home = os.path.join(self.root, "opt/anthropic-managed-agents")
        self.exits = os.path.join(self.home, "exits")
        self.inbox = os.path.join(self.home, "inbox")
        self.run = os.path.join(self.home, "run")
        self.socket = os.path.join(self.run, SOCKET_NAME)
        self.lock = os.path.join(self.run, "supervisor.lock")
        self.interpreter = os.path.join(self.run, "interpreter")
        self.state = os.path.join(self.run, "state.json")
        self.worker_log = os.path.join(self.home, "worker.log")
        self.reserve = os.path.join(self.home, "reserve")
        self.supervisor_log = os.path.join(self.home, "supervisor.log")
        self.workdir = os.path.join(self.root, "mnt/session")
        self.memory = os.path.join(self.root, "mnt/memory")

    @classmethod
    def from_environment(cls) -> "Paths":
        """The paths below `MANAGED_SESSION_ROOT`, or the true ones."""
        return cls(os.environ.get(ROOT_VARIABLE) or "/")


def within_directory(directory_fd: int, name: str) -> str:
    """A path for `name` in an open directory that always fits the 108 bytes of a Unix socket address."""
    return f"/proc/self/fd/{directory_fd}/{name}"
