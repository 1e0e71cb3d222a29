"""The root file system of one sandbox: a private directory with read-only windows on the host.

The directory holds everything that a process inside may write; the host contributes its programs and
libraries (`/usr` and the Python installation that runs the simulator) and a fresh /proc and /dev. Nothing
else of the host is visible: no home directories, no /var, no credentials, no other sandbox.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from managed_session_local.simulators.e2b.namespace import linux

USER_ID: Final = 1000
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_WRITABLE: Final = {
    "tmp": 0o1777,
    "var/tmp": 0o1777,
    "run": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "srv": 0o755,
    "root": 0o711,
    "home/user": 0o755,
    "var/log": 0o755,
    "var/lib": 0o755,
    "usr": 0o755,
    "proc": 0o555,
    "dev": 0o755,
    "etc": 0o755,
}
_COPIED_ETC: Final = (
    "hosts", "resolv.conf", "nsswitch.conf", "localtime", "timezone", "os-release", "ld.so.cache",
    "ld.so.conf", "services", "protocols", "mime.types", "host.conf", "gai.conf", "debian_version",
)  # fmt: skip
_BOUND_ETC: Final = (
    "ssl/certs",
    "alternatives",
    "ca-certificates",
    "pki/ca-trust",
    "pki/tls/certs",
    "ld.so.conf.d",
)
_USERS: Final = (
    "root:x:0:0:root:/root:/bin/bash\n"
    "user:x:1000:1000::/home/user:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
)
_GROUPS: Final = "root:x:0:\nuser:x:1000:\ntty:x:5:\nnogroup:x:65534:\n"
# A login shell must not replace the PATH on which `python3` is the simulator's own interpreter.
_PROFILE: Final = "export PS1='\\u@e2b:\\w\\$ '\n"


def system_windows() -> list[str]:
    """Host directories that hold programs and libraries. /bin, /lib… only where they are no links."""
    candidates = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix")
    return [path for path in candidates if Path(path).is_dir() and not Path(path).is_symlink()]


def build_skeleton(skeleton: Path) -> None:
    """Write what every sandbox's root starts with (once per simulator). Raises OSError."""
    for name, mode in _WRITABLE.items():
        directory = skeleton / name
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
    for link in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        source = Path("/", link)
        if source.is_symlink():
            (skeleton / link).symlink_to(source.readlink())
    etc = skeleton / "etc"
    for name in _COPIED_ETC:
        source = Path("/etc", name)
        if source.is_file():
            shutil.copyfile(source, etc / name)
    (etc / "passwd").write_text(_USERS)
    (etc / "group").write_text(_GROUPS)
    (etc / "profile").write_text(_PROFILE)
    (etc / "hostname").write_text("e2b\n")
    for name in _BOUND_ETC:
        if Path("/etc", name).is_dir():
            (etc / name).mkdir(parents=True, exist_ok=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with modes, links and (as root) owners into an existing or new directory."""
    with os.scandir(source) as entries:
        for entry in entries:
            into = target / entry.name
            if entry.is_symlink():
                into.unlink(missing_ok=True)
                into.symlink_to(Path(entry.path).readlink())
            elif entry.is_dir(follow_symlinks=False):
                into.mkdir(exist_ok=True)
                copy_tree(Path(entry.path), into)
            else:
                shutil.copyfile(entry.path, into)
            status = entry.stat(follow_symlinks=False)
            if not entry.is_symlink():
                into.chmod(status.st_mode & 0o7777)
            _own(into, status.st_uid, status.st_gid)


def _own(path: Path, user: int, group: int) -> None:
    with suppress(OSError):
        os.chown(path, user, group, follow_symlinks=False)


def populate(root: Path, layers: list[str]) -> None:
    """Fill a sandbox's new root directory from the skeleton and the template's layer, in that order."""
    for layer in layers:
        copy_tree(Path(layer), root)
    _own(root / "home/user", USER_ID, USER_ID)


def limit_size(root: str, megabytes: int) -> None:
    """Give a sandbox that is not filled yet a disk of its own, which can be full. Raises OSError.

    It is lost with the sandbox's processes.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID, f"mode=755,size={megabytes}m")


def enter(root: str, windows: list[str]) -> None:
    """Mount the sandbox's root and change into it, as first process of new mount and PID namespaces.

    Raises OSError with the step that the system refused.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(root, root, None, linux.MS_BIND | linux.MS_REC)
    etc_windows = [f"/etc/{name}" for name in _BOUND_ETC if Path("/etc", name).is_dir()]
    for window in [*windows, *etc_windows]:
        target = Path(root + window)
        if not target.is_dir():
            _make_traversable_directory(Path(root), target)
        linux.bind_read_only(window, str(target))
    _mount_devices(root + "/dev")
    linux.mount("proc", root + "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.change_root(root)


def _make_traversable_directory(root: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for parent in target.relative_to(root).parents:
        directory = root / parent
        directory.chmod(directory.stat().st_mode | 0o011)


def _mount_devices(target: str) -> None:
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID, "mode=755,size=64m")
    for name in _DEVICES:
        device = Path(target, name)
        device.touch()
        linux.mount(f"/dev/{name}", str(device), None, linux.MS_BIND)
    for link, to in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path(target, link).symlink_to(to)
    shared_memory = Path(target, "shm")
    shared_memory.mkdir()
    shared_memory.chmod(0o1777)
    pseudo_terminals = Path(target, "pts")
    pseudo_terminals.mkdir()
    linux.mount(
        "devpts",
        str(pseudo_terminals),
        "devpts",
        linux.MS_NOSUID | linux.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )
    Path(target, "ptmx").symlink_to("pts/ptmx")
