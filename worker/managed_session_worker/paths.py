"""Defines all paths inside a sandbox. Uses `os.path` only, because `supervisorctl` must start quickly."""

# ruff: noqa: PTH100, PTH118

import os

ROOT_VARIABLE = "MANAGED_SESSION_ROOT"
"""Tests (never the product) set this variable to use another directory as the root."""
SOCKET_NAME = "supervisor.sock"
IMAGE_PYTHON = "python3"


class Paths:
    """All paths of one sandbox, below `root` ("/" in a real one)."""

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)
        self.home = os.path.join(self.root, "opt/anthropic-managed-agents")
        self.exits = os.path.join(self.home, "exits")
        self.inbox = os.path.join(self.home, "inbox")
        self.library = os.path.join(self.home, "lib")
        self.package = os.path.join(self.library, "managed_session_worker")
        self.python = os.path.join(self.home, "python")
        self.own_interpreter = os.path.join(self.python, "bin/python3")
        self.run = os.path.join(self.home, "run")
        self.refusal = os.path.join(self.run, "refusal")
        self.socket = os.path.join(self.run, SOCKET_NAME)
        self.lock = os.path.join(self.run, "supervisor.lock")
        self.interpreter = os.path.join(self.run, "interpreter")
        self.state = os.path.join(self.run, "state.json")
        self.worker_log = os.path.join(self.home, "worker.log")
        self.reserve = os.path.join(self.home, "reserve")
        self.supervisor_log = os.path.join(self.home, "supervisor.log")
        self.skill_parts = os.path.join(self.home, "skill-parts")
        self.skill_record = os.path.join(self.home, "skills.json")
        self.workdir = os.path.join(self.root, "mnt/session")
        self.skills = os.path.join(self.workdir, "skills")
        self.memory = os.path.join(self.root, "mnt/memory")

    def request(self, claim: str) -> str:
        """Return the file in which the operator leaves the request of `claim` for `supervisorctl`."""
        return os.path.join(self.inbox, f"{claim}.json")

    @property
    def find_python(self) -> str:
        """Shell commands that set `$p` to our own Python, or to the image's if a template has no other."""
        return f"p={self.own_interpreter}; [ -x $p ] || p={IMAGE_PYTHON}"

    def exec_python(self, program: str) -> str:
        """Return shell commands that run a program with that Python, in place of the shell.

        Our own Python has its packages in a folder of its own; the image's finds them through its `site`.
        """
        own = self.own_interpreter
        return f"[ -x {own} ] && exec {own} -I -S {program}; exec {IMAGE_PYTHON} {program}"

    @classmethod
    def from_environment(cls) -> "Paths":
        """Return the paths below `MANAGED_SESSION_ROOT`, or those of a real sandbox."""
        return cls(os.environ.get(ROOT_VARIABLE) or "/")


def within_directory(directory_fd: int, name: str) -> str:
    """Return a path for `name` in an open directory that fits the 108 bytes of a Unix socket address."""
    return f"/proc/self/fd/{directory_fd}/{name}"
