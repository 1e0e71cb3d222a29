"""Defines all paths inside a sandbox. Uses `os.path` only, because `supervisorctl` must start quickly."""

# ruff: noqa: PTH100, PTH118

import os

ROOT_VARIABLE = "MANAGED_SESSION_ROOT"
"""Tests (never the product) set this variable to use another directory as the root."""
SOCKET_NAME = "supervisor.sock"
IMAGE_PYTHON = "python3"
SESSIONS = "sessions"
"""The folder with one folder per session of a shared sandbox; in several places of the sandbox."""
AS_AGENT = (
    "g=$(/usr/bin/id -g agent 2>/dev/null) && "
    'as="/usr/bin/setpriv --reuid agent --regid $g --init-groups --" || as='
)
"""Shell commands that set `$as` to a command that switches to the user of the agent's commands, if the
template has it, without PAM, which images may lack."""


class Paths:
    """All paths of one sandbox, below `root` ("/" in a real one).

    With a session's key they are those of one session in a shared sandbox. What a supervisor and its workers
    change is then below folders of that session; programs and what the sandbox trusts are common. `workdir`,
    `skills` and `memory` are the same for all: in the session's own mount namespace, its folders
    `outer_workdir` and `outer_memory` are mounted there (see `session_namespace`). Only root may look
    into any of these folders.
    """

    def __init__(self, root: str = "/", session: str = "") -> None:  # noqa: PLR0915 - a list
        self.root = os.path.abspath(root)
        self.session = session
        self.home = os.path.join(self.root, "opt/anthropic-managed-agents")
        self.library = os.path.join(self.home, "lib")
        self.package = os.path.join(self.library, "managed_session_worker")
        self.python = os.path.join(self.home, "python")
        self.build = os.path.join(self.home, "build")
        self.own_interpreter = os.path.join(self.python, "bin/python3")
        self.interpreter = os.path.join(self.home, "run/interpreter")
        self.trust_bundle = os.path.join(self.home, "trusted.pem")
        self.own_trust_bundle = os.path.join(self.home, "trusted-own.pem")
        self.added_authorities = os.path.join(self.home, "added-authorities.pem")
        self.uploads = os.path.join(self.home, "uploads")
        self.workdir = os.path.join(self.root, "mnt/session")
        self.skills = os.path.join(self.workdir, "skills")
        self.memory = os.path.join(self.root, "mnt/memory")
        # Root alone may enter `inbox` and `run`, and so what is below them, whoever has made it.
        part = f"{SESSIONS}/{session}" if session else ""
        self.inbox = os.path.join(self.home, "inbox", part).rstrip("/")
        self.run = os.path.join(self.home, "run", part).rstrip("/")
        self.skill_parts = os.path.join(self.home, "skill-parts", part).rstrip("/")
        self.own = os.path.join(self.home, part).rstrip("/")
        self.outer_workdir = os.path.join(self.own, "session") if session else self.workdir
        self.outer_memory = os.path.join(self.own, "memory") if session else self.memory
        self.refusal = os.path.join(self.run, "refusal")
        self.socket = os.path.join(self.run, SOCKET_NAME)
        self.lock = os.path.join(self.run, "supervisor.lock")
        self.supervisor = os.path.join(self.run, "supervisor.json")
        self.state = os.path.join(self.run, "state.json")
        self.preparation_lock = os.path.join(self.run, "preparation.lock")
        self.exits = os.path.join(self.own, "exits")
        self.worker_log = os.path.join(self.own, "worker.log")
        self.reserve = os.path.join(self.own, "reserve")
        self.supervisor_log = os.path.join(self.own, "supervisor.log")
        self.skill_record = os.path.join(self.own, "skills.json")
        self.preparation_record = os.path.join(self.own, "prepared.json")

    def of_session(self, key: str) -> "Paths":
        """Return the paths of one session in this sandbox; those of the sandbox itself if `key` is empty."""
        return Paths(self.root, key)

    @property
    def folders(self) -> "tuple[str, ...]":
        """The folders that belong to this session alone, that of the lock last. None without a session."""
        return (self.own, self.inbox, self.skill_parts, self.run) if self.session else ()

    def request(self, claim: str) -> str:
        """Return the file in which the operator leaves the request of `claim` for `supervisorctl`."""
        return os.path.join(self.inbox, f"{claim}.json")

    def plan(self, identifier: str) -> str:
        """Return the file in which the operator leaves a plan of the preparation. Only root can read it."""
        return os.path.join(self.run, f"plan-{identifier}")

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

    @property
    def exec_supervisorctl(self) -> str:
        """Shell commands that run `supervisorctl` in place of the shell; its command is to be appended.

        A sandbox keeps the worker of the version that made it: until 0.1.0 it was called `attach.py`. Only
        later versions know the command `session`; others answer it with their usage and exit status 2.
        """
        session = f" session {self.session}" if self.session else ""
        return (
            f"{self.find_python}; supervisorctl={self.package}/supervisorctl.py; "
            f"[ -f $supervisorctl ] || supervisorctl={self.package}/attach.py; "
            f"exec $p -I -S $supervisorctl{session}"
        )

    def inside(self, command: str) -> str:
        """Return shell commands that run `command` as root where the session's files have the usual paths."""
        if not self.session:
            return command
        quoted = command.replace("'", "'\"'\"'")
        return f"{self.exec_supervisorctl} run /bin/sh -c '{quoted}'"

    @classmethod
    def from_environment(cls, session: str = "") -> "Paths":
        """Return the paths below `MANAGED_SESSION_ROOT`, or those of a real sandbox."""
        return cls(os.environ.get(ROOT_VARIABLE) or "/", session)


def within_directory(directory_fd: int, name: str) -> str:
    """Return a path for `name` in an open directory that fits the 108 bytes of a Unix socket address."""
    return f"/proc/self/fd/{directory_fd}/{name}"
