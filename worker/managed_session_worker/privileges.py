"""Keeps the agent's commands away from the worker's memory, and the worker away from root.

Linux: prctl(2), capabilities(7), ptrace(2) "Ptrace access mode checking".

The worker and the agent's commands run as the same user, so that files of the SDK's tools and of the shell
have one owner. The agent can still read the worker's log, the exit records and what `ps` shows of every
process. It can signal the worker, whose claim then ends as Killed or Thawed. It can use the network as far as
the sandbox's policy allows, without a credential of the session. Where a sandbox has no user but root, the
commands have uid 0 without capabilities: they can then also change root's files and signal the supervisor.
"""

import ctypes
import os
import pwd
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
MAX_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Account:
    """The user that the worker and the agent's commands run as. `exclusive`: nothing else runs as it."""

    name: str
    uid: int
    gid: int
    home: str
    exclusive: bool

    @classmethod
    def find(cls, name: str) -> "Account":
        """Return the account `name` (or a numeric uid) if this process can switch to it, else its own."""
        own = os.geteuid()
        found: Account | None = None
        try:
            entry = pwd.getpwnam(name)
            found = cls(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, exclusive=True)
        except KeyError:
            if name.isdecimal():
                found = cls(name, int(name), int(name), "/", exclusive=False)
        if own == 0 and found is not None and _can_become(found):
            return found
        home = os.environ.get("HOME") or "/"
        return cls(os.environ.get("USER") or str(own), own, os.getegid(), home, exclusive=False)


def _prctl(option: int, *arguments: int) -> bool:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(ctypes.c_int(option), *padded)) == 0


def set_process_name(name: str) -> None:
    """Set what `ps` shows as the name of this process: at most 15 bytes, for people."""
    text = ctypes.create_string_buffer(name.encode())
    _libc.prctl(ctypes.c_int(PR_SET_NAME), text)


def become_subreaper() -> None:
    """Make every orphaned descendant of this process its child.

    Raises:
        OSError: The kernel refused. Tools could then outlive a killed worker without being noticed.
    """
    if not _prctl(PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def forbid_memory_access() -> None:
    """Close this process's memory, environment and descriptors to all without CAP_SYS_PTRACE; no core dumps.

    Raises:
        OSError: The kernel refused.
    """
    if not _prctl(PR_SET_DUMPABLE, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def drop_privileges(account: Account) -> None:
    """Give up root for good: switch to `account`, drop all capabilities and the ways to regain one.

    Without another account to switch to, the process keeps uid 0 without capabilities. Even then it can't
    trace a process that forbids access to its memory.

    Raises:
        OSError: The identity could not be changed.
    """
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(MAX_CAPABILITY + 1):
        _prctl(PR_CAPBSET_DROP, capability)
    if os.geteuid() == 0 and account.uid != 0:
        _become(account)
    _clear_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _become(account: Account) -> None:
    if account.exclusive:
        os.initgroups(account.name, account.gid)
    else:
        os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)


def _can_become(account: Account) -> bool:
    """Try to switch in a child process: a user namespace may map no uid but this one."""
    pid = os.fork()
    if pid == 0:
        try:
            _become(account)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies. Call this last: changing the user resets it."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _clear_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def effective_capabilities(pid: int | str) -> int:
    """Return the effective capabilities of a process as a bit mask; 0 if they cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)


def set_memory_kill_preference(score: int) -> None:
    """Set how soon the kernel kills this process when memory is short (-1000 never … 1000 first)."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError:
        return
