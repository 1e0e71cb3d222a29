"""Closes what E2B leaves open in a sandbox, and finds files of root and the worker that others can change.

After the last step of a build E2B makes `/usr/local` writable for everyone, lets `user` run sudo without a
password, and starts an sshd that lets root in without one (e2b-dev/infra at 54693ff,
`phases/base/provision.sh`, `phases/finalize/configure.sh`; envd's own file has mode 0777,
`core/rootfs/rootfs.go`). Only the start command runs later, so the supervisor does this. The changes are on
the disk: they last through a cold boot, which does not run the start command again.
"""

import logging
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from managed_session_worker.paths import Paths
from managed_session_worker.permission_audit import PermissionAudit, shared_objects
from managed_session_worker.privileges import Account

E2B_FILES = (".e2b", "usr/bin/envd")
"""Files in each image that E2B has built. Where they are missing and nothing is open, no file is changed."""
LOCAL_PROGRAMS = "usr/local"
PROGRAM_FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
SYSTEM_TREES = ("etc", "usr/local", "var/spool/cron", "usr/lib/systemd", "lib/systemd", "run/systemd/system")
"""What root's login shells and jobs, the dynamic loader and the init system read."""
SSHD_UNITS = ("ssh.service", "ssh.socket", "sshd.service", "sshd.socket")
MAX_LISTED = 5
SYSTEMCTL_SECONDS = 20

logger = logging.getLogger("managed_session_worker.hardening")


def harden(paths: Paths) -> None:
    """Close what E2B leaves open, on the disk and among the running services. Safe to repeat.

    Raises:
        OSError: Something could not be closed.
    """
    root = Path(paths.root)
    if os.geteuid() != 0 or not _is_built_by_e2b(root):
        return
    _restrict_tree(root / LOCAL_PROGRAMS)
    _restrict_file(root / "usr/bin/envd")
    for name in ("etc/shadow", "etc/passwd"):
        _edit(root / name, _lock_empty_password)
    for file in (root / "etc/sudoers", *(root / "etc/sudoers.d").glob("*")):
        _edit(file, lambda line: None if re.search(r"^[^#]*NOPASSWD", line) else line)
    for file in (root / "etc/ssh/sshd_config", *(root / "etc/ssh/sshd_config.d").glob("*.conf")):
        _edit(file, _forbid_logins)
    _mask_sshd(root)
    if paths.root == "/":
        _stop_sshd()


def _is_built_by_e2b(root: Path) -> bool:
    """Return whether E2B has built this image, by its files or by a `/usr/local` that everyone may write."""
    if any((root / name).exists() for name in E2B_FILES):
        return True
    try:
        return bool((root / LOCAL_PROGRAMS).stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def _restrict_tree(tree: Path) -> None:
    for directory, names, files in os.walk(tree):
        for name in (".", *names, *files):
            _restrict_file(Path(directory, name))


def _restrict_file(path: Path) -> None:
    """Let only root own and write a file, unless it is a link or on a read-only file system."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if path.is_symlink():
        return
    if found.st_uid != 0 and not os.statvfs(path).f_flag & os.ST_RDONLY:
        os.chown(path, 0, 0, follow_symlinks=False)
    if found.st_mode & 0o022 and not os.statvfs(path).f_flag & os.ST_RDONLY:
        path.chmod(found.st_mode & 0o7755)


def _edit(file: Path, change: Callable[[str], str | None]) -> None:
    """Change lines of a file, or remove them (None), and replace it atomically. It keeps owner and mode."""
    if file.is_symlink() or not file.is_file():
        return
    before = file.read_text(errors="surrogateescape")
    lines = (change(line) for line in before.splitlines(keepends=True))
    after = "".join(line for line in lines if line is not None)
    if after == before:
        return
    found = file.stat()
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", errors="surrogateescape") as stream:
        stream.write(after)
        os.fchown(stream.fileno(), found.st_uid, found.st_gid)
        os.fchmod(stream.fileno(), found.st_mode & 0o7777)
        os.fsync(stream.fileno())
    new.replace(file)


def _lock_empty_password(line: str) -> str:
    name, separator, rest = line.partition(":")
    return f"{name}:*{rest}" if separator and rest.startswith(":") else line


def _forbid_logins(line: str) -> str:
    return re.sub(r"^\s*(PermitRootLogin|PermitEmptyPasswords)\b.*", r"\1 no", line, flags=re.IGNORECASE)


def _mask_sshd(root: Path) -> None:
    """Keep systemd (systemctl(1), mask) and OpenRC from starting sshd."""
    units = root / "etc/systemd/system"
    for link in (*units.glob("*.wants/ssh*.service"), *units.glob("*.wants/ssh*.socket")):
        link.unlink()
    for link in (root / "etc/runlevels").glob("*/sshd"):
        link.unlink()
    for name in SSHD_UNITS:
        unit = units / name
        if unit.is_symlink() and str(unit.readlink()) == os.devnull:
            continue
        units.mkdir(parents=True, exist_ok=True)
        unit.unlink(missing_ok=True)
        unit.symlink_to(os.devnull)


def _stop_sshd() -> None:
    if Path("/run/systemd/system").is_dir():
        try:
            subprocess.run(  # noqa: S603 - no input
                ["/usr/bin/systemctl", "stop", *SSHD_UNITS],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SYSTEMCTL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.warning("systemctl did not stop sshd: %s", type(error).__name__)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == 0 and re.match(rb"(\S*/)?sshd\b", (process / "cmdline").read_bytes()):
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def audit_loaded_code(paths: Paths, account: Account) -> list[str]:
    """Find code that this process has loaded and that others than root may change, like `audit_files`."""
    if os.geteuid() != 0:
        return []
    audit = _audit_for(paths, account)
    for module in list(sys.modules.values()):
        for name in ("__file__", "__cached__"):
            if isinstance(file := getattr(module, name, None), str) and file.startswith("/"):
                audit.path(file)
    for file in shared_objects():
        audit.path(file)
    return audit.findings


def _audit_for(paths: Paths, account: Account) -> PermissionAudit:
    return PermissionAudit(paths.root, frozenset({account.uid, account.gid} - {0}))


def audit_files(paths: Paths, account: Account) -> list[str]:
    """Find files that root or the worker runs or may import, and that others than root may change.

    Args:
        paths: The sandbox; files outside its root are not checked.
        account: The account that the worker runs as.

    Returns:
        A sentence for each finding. Empty if this process is not root: then there is nothing to protect.
    """
    if os.geteuid() != 0:
        return []
    audit = _audit_for(paths, account)
    audit.path(sys.executable)
    for entry in sys.path:
        audit.path(entry or ".")
    audit.tree(paths.library)
    audit.tree(paths.python)
    for path in (paths.home, paths.run, paths.inbox, paths.exits, paths.supervisor_log, paths.worker_log):
        audit.path(path)
    root = Path(paths.root)
    for name in SYSTEM_TREES:
        audit.tree(str(root / name), system=True)
    for folder in PROGRAM_FOLDERS:
        audit.path(str(root / folder), system=True)
        for program in _entries(root / folder):
            audit.path(str(program), system=True)
    for file in (root / "root").glob(".*"):
        audit.path(str(file), system=True)
    return audit.findings


def _entries(folder: Path) -> list[Path]:
    """List a folder, unless it is a link to another one or on a read-only file system."""
    if folder.is_symlink() or not folder.is_dir() or os.statvfs(folder).f_flag & os.ST_RDONLY:
        return []
    return list(folder.iterdir())


def summary(findings: list[str]) -> str:
    """Return the first few findings in one line."""
    more = f"; and {len(findings) - MAX_LISTED} more" if len(findings) > MAX_LISTED else ""
    return "; ".join(findings[:MAX_LISTED]) + more
