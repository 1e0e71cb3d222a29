"""Clones the repositories of a setup, with plain git.

A credential is used by a process of another user than the agent's, in a directory that only root may enter.
So a process that the agent has left behind can neither trace it nor read its memory, descriptors or
variables. That process gets the credential through a pipe. It is on no command line, in no variable and in no
file, and git is told to ask for it for this host only. The agent's user then clones from that copy, so
whatever the agent has prepared where the repository belongs can do no more than the agent.

git: git-config(1), gitcredentials(7), "Custom helpers"; ssh-add(1) reads a key from its standard input.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from managed_session_worker.preparation.agent_files import as_agent, beside, clear_place, take_place
from managed_session_worker.preparation.sandbox import Finished, Sandbox, SectionFailedError

GIT = "/usr/bin/git"
SSH = ("/usr/bin/ssh", "/usr/bin/ssh-agent", "/usr/bin/ssh-add")
DEFAULT_SECONDS = 600.0
NOBODY = 65534
"""The user that fetches with a credential. No process of the agent can be or become it."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_CREDENTIAL_FD = 9
_GLOBAL = """[safe]
\tdirectory = *
[core]
\thooksPath = /dev/null
\tfsmonitor = false
[init]
\ttemplateDir =
\tdefaultBranch = main
[submodule]
\trecurse = false
[advice]
\tdetachedHead = false
[http]
\tlowSpeedLimit = 100
\tlowSpeedTime = 60
\tfollowRedirects = initial
[protocol]
\tallow = never
[protocol "file"]
\tallow = always
"""
_AS_NOBODY = f"""
import ctypes, os, sys
user = int(sys.argv[1])
os.umask(0o022)
try:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
except OSError:
    pass  # There is no other user in this sandbox.
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
os.dup2(0, {_CREDENTIAL_FD})
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Gives up root, and moves the pipe with the credential out of the way of programs that read their input."""
_HELPER = f'!f() {{ [ "$1" = get ] || exit 0; cat <&{_CREDENTIAL_FD}; }}; f'
"""Answers git once: the pipe is empty afterwards. `store` and `erase` are ignored."""
_WITH_KEY = f'/usr/bin/ssh-add -q - <&{_CREDENTIAL_FD} && exec {_CREDENTIAL_FD}<&- && exec "$@"'


@dataclass(frozen=True)
class Repository:
    """One entry of the section, as the operator sends it."""

    step: str
    url: str
    path: str
    ref: str
    depth: int
    credential: dict[str, str] | None
    seconds: float

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Repository:
        """Read an entry."""
        return cls(
            str(entry["step"]),
            str(entry["url"]),
            str(entry["path"]),
            str(entry.get("ref") or ""),
            int(entry.get("depth") or 0),
            entry.get("credential"),
            float(entry.get("seconds") or DEFAULT_SECONDS),
        )

    @property
    def scheme(self) -> str:
        """The transport, as git names it."""
        return self.url.partition("://")[0] if "://" in self.url else "ssh"


def clear_stages(sandbox: Sandbox) -> None:
    """Remove what interrupted clones have left outside the agent's directories."""
    for left in Path(sandbox.paths.home).glob(f"{_stage(sandbox)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _stage(sandbox: Sandbox) -> str:
    session = sandbox.paths.session
    return f"setup.{session}." if session else "setup-"


def clone(sandbox: Sandbox, repository: Repository, fingerprint: str) -> None:
    """Clone a repository to its place, and move away what was there.

    Raises:
        SectionFailedError: it could not be cloned. Nothing of it is left.
    """
    pending = f"pending:{repository.path}"
    taken = os.path.lexists(repository.path) and not os.path.lexists(beside(repository.path))
    if sandbox.done(pending) == fingerprint and taken:
        return  # It took its place just before an earlier run was cut off.
    if not os.access(GIT, os.X_OK):
        raise SectionFailedError(
            repository.step, f"the sandbox's image has no {GIT}; build the template with git"
        )
    stage = Path(tempfile.mkdtemp(prefix=_stage(sandbox), dir=sandbox.paths.home))
    try:
        (stage / "config").write_text(_GLOBAL)
        stage.chmod(0o755)
        new = clear_place(sandbox, repository.step, repository.path)
        source, work = (
            repository.url,
            _Clone(sandbox, repository, stage, time.monotonic() + repository.seconds),
        )
        if repository.credential is not None:
            source = work.fetch_privately(repository.credential)
        work.clone(source, new)
        sandbox.set_done(pending, fingerprint)
        take_place(sandbox, repository.step, new, repository.path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


class _Clone:
    """One clone, in at most two stages."""

    def __init__(self, sandbox: Sandbox, repository: Repository, stage: Path, deadline: float) -> None:
        self._sandbox, self._repository, self._stage = sandbox, repository, stage
        self._deadline = deadline
        self._secrets: tuple[str, ...] = ()
        # `-c` settings of the command line win over every file.
        self._options = [
            "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "credential.helper=",
            "-c", f"protocol.{repository.scheme}.allow=always",
        ]  # fmt: skip
        self._variables = {
            "GIT_CONFIG_GLOBAL": str(stage / "config"),
            "XDG_CONFIG_HOME": "/nonexistent",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "LC_ALL": "C.UTF-8",
        }

    def fetch_privately(self, credential: dict[str, str]) -> str:
        """Fetch with the credential into a directory of another user. Returns the directory."""
        private = self._stage / "private"
        private.mkdir(mode=0o700)
        if os.geteuid() == 0:
            _give(private, NOBODY)
        target = str(private / "repository")
        self._secrets = secrets_of(credential)
        if self._repository.scheme == "ssh":
            program, stdin = self._by_key(credential), _key(credential).encode()
        else:
            program, stdin = self._by_token(), _answer(credential).encode()
        for arguments, reaches in self._commands(self._repository.url, target, bare=True):
            given = ([*program, *arguments], stdin) if reaches else ([GIT, *arguments], b"")
            self._check(self._as_nobody(*given))
        del self._options[-2:]
        _give(private, 0)
        private.chmod(0o755)
        return target

    def clone(self, source: str, target: str) -> None:
        """Clone as the agent's user to a directory that does not exist."""
        for arguments, _ in self._commands(source, target, bare=False):
            self._check(self._as_agent(arguments))
        if source != self._repository.url:
            self._check(self._as_agent(["-C", target, "remote", "set-url", "origin", self._repository.url]))

    def _commands(self, source: str, target: str, *, bare: bool) -> list[tuple[list[str], bool]]:
        """Return git's arguments, and which of the commands reaches the source."""
        repository, kind = self._repository, ["--bare"] if bare else []
        depth = [f"--depth={repository.depth}"] if repository.depth else []
        if not _COMMIT.fullmatch(repository.ref):
            branch = [f"--branch={repository.ref}"] if repository.ref else []
            local = ["--no-hardlinks"] if source.startswith("/") and not depth else []
            at = f"file://{source}" if source.startswith("/") and depth else source
            return [([*self._options, "clone", "-q", *kind, *depth, *branch, *local, "--", at, target], True)]
        kept = "refs/heads/setup"
        commands = [
            ([*self._options, "init", "-q", *kind, "--", target], False),
            ([*self._options, "-C", target, "remote", "add", "origin", source], False),
        ]
        at = f"{kept}" if source.startswith("/") else repository.ref
        into = [f"{at}:{kept}"] if bare else [at]
        commands.append(([*self._options, "-C", target, "fetch", "-q", *depth, "origin", *into], True))
        if not bare:
            commands.append(
                ([*self._options, "-C", target, "checkout", "-q", "--detach", repository.ref], False)
            )
        return commands

    def _by_token(self) -> list[str]:
        parts = urllib.parse.urlsplit(self._repository.url)
        context = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        # After all that other files say, and for this server only: git also asks after a redirection.
        self._options += ["-c", f"credential.{context}.helper={_HELPER}"]
        return [GIT]

    def _by_key(self, credential: dict[str, str]) -> list[str]:
        for program in SSH:
            if not os.access(program, os.X_OK):
                raise SectionFailedError(self._repository.step, f"the sandbox's image has no {program}")
        known, check = self._stage / "known_hosts", "accept-new"
        known.write_text("")
        if hosts := credential.get("knownHosts"):
            known.write_text(hosts.rstrip("\n") + "\n")
            check = "yes"
        else:
            _give(known, NOBODY)
        self._variables["GIT_SSH_COMMAND"] = (
            f"{SSH[0]} -F /dev/null -o BatchMode=yes -o ClearAllForwardings=yes -o ConnectTimeout=30 "
            f"-o StrictHostKeyChecking={check} -o GlobalKnownHostsFile=/dev/null "
            f"-o UserKnownHostsFile={known}"
        )
        # The key is in the memory of ssh-agent, which ends with the command, and in no file.
        return [SSH[1], "/bin/sh", "-c", _WITH_KEY, "sh", GIT]

    def _as_nobody(self, command: Sequence[str], stdin: bytes) -> Finished:
        launcher = [sys.executable, "-I", "-S", "-c", _AS_NOBODY, str(NOBODY)]
        known = {**os.environ, **self._sandbox.environment}
        kept = {name: value for name, value in known.items() if _reaches_the_network(name)}
        variables = {**kept, **self._variables, "HOME": "/nonexistent"}
        return self._sandbox.run_as_root(
            [*launcher, *command], seconds=self._left(), stdin=stdin, env=variables
        )

    def _as_agent(self, arguments: Sequence[str]) -> Finished:
        return as_agent(self._sandbox, [GIT, *arguments], seconds=self._left(), env=self._variables)

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())

    def _check(self, finished: Finished) -> None:
        if finished.succeeded:
            return
        output = redacted(finished.output, self._secrets)
        if finished.status is None:
            raise SectionFailedError(
                self._repository.step, f"git took longer than {self._repository.seconds:.0f} seconds", output
            )
        why = f"git could not clone {self._repository.url} (exit status {finished.status})"
        raise SectionFailedError(self._repository.step, why, output)


def _give(path: Path, user: int) -> None:
    """Give a file or a directory to a user, if this process may."""
    if os.geteuid() == 0:
        try:
            os.chown(path, user, user)
        except OSError:
            return  # This sandbox has no user but root.


def _reaches_the_network(name: str) -> bool:
    """Return whether a variable says how programs reach servers: proxies and certificates."""
    return name.lower() in ("https_proxy", "http_proxy", "all_proxy", "no_proxy") or name in (
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
        "CURL_CA_BUNDLE",
    )


def _key(credential: dict[str, str]) -> str:
    return credential["value"].replace("\r\n", "\n").strip() + "\n"


def _answer(credential: dict[str, str]) -> str:
    """Return what a credential helper prints."""
    token = credential["value"].strip()
    if "\n" in token or "\0" in token:
        token = token.splitlines()[0]
    return f"username={credential.get('username') or 'x-access-token'}\npassword={token}\n\n"


def secrets_of(credential: dict[str, str]) -> tuple[str, ...]:
    """Return the forms in which a program could print a credential."""
    value, user = credential["value"].strip(), credential.get("username") or "x-access-token"
    basic = base64.b64encode(f"{user}:{value}".encode()).decode()
    lines = [line.strip() for line in value.splitlines() if len(line.strip()) > 3]
    return (value, urllib.parse.quote(value, safe=""), basic, *lines)


def redacted(output: str, secrets: Sequence[str]) -> str:
    """Return the output without the secrets."""
    for secret in secrets:
        if secret:
            output = output.replace(secret, "…")
    return output
