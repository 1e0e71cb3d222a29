"""The root file system of one sandbox: a private directory with read-only views of the host.

The directory holds everything that a process inside may write. The host contributes programs and libraries:
`/usr`, and the Python installation that runs the simulator. /proc and /dev are new. Nothing else of the host
is visible: no home directories, no /var, no credentials, no other sandbox. The sandbox has its own
`/usr/local` (`image.py`). Large trees of a template that only root may write are shared read-only, as E2B's
disks share unchanged data.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from managed_session_devkit.simulators.e2b.namespace import image, linux

USER_ID: Final = 1000
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_VOLUMES: Final = "/.host/volumes"
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


def system_windows() -> list[str]:
    """Return the host's directories of programs and libraries. /bin, /lib… count unless they are links."""
    candidates = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix")
    return [path for path in candidates if Path(path).is_dir() and not Path(path).is_symlink()]


def build_skeleton(skeleton: Path) -> None:
    """Write the files that every sandbox's root starts with, once per simulator. Raises OSError."""
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
    (etc / "hostname").write_text("e2b\n")
    for name in _BOUND_ETC:
        if Path("/etc", name).is_dir():
            (etc / name).mkdir(parents=True, exist_ok=True)
    image.provision(skeleton)
    image.finalize(skeleton)


def copy_tree(source: Path, target: Path, without: frozenset[str] = frozenset()) -> None:
    """Copy a tree with modes, times, links and (as root) owners to an existing or new directory.

    Times matter, because Python compiles a module again if its source seems newer than its bytecode. The
    directories in `without` (paths in the source) are made, but not filled.
    """
    with os.scandir(source) as entries:
        for entry in entries:
            into = target / entry.name
            if entry.is_symlink():
                into.unlink(missing_ok=True)
                into.symlink_to(Path(entry.path).readlink())
            elif entry.is_dir(follow_symlinks=False):
                into.mkdir(exist_ok=True)
                if entry.path not in without:
                    copy_tree(Path(entry.path), into, without)
            else:
                shutil.copyfile(entry.path, into)
            status = entry.stat(follow_symlinks=False)
            if not entry.is_symlink():
                into.chmod(status.st_mode & 0o7777)
            _own(into, status.st_uid, status.st_gid)
            os.utime(into, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _own(path: Path, user: int, group: int) -> None:
    with suppress(OSError):
        os.chown(path, user, group, follow_symlinks=False)


def populate(root: Path, layer: str, shared: list[str]) -> None:
    """Fill a sandbox's new root directory from a template's layer, without the shared trees."""
    copy_tree(Path(layer), root, frozenset(layer + path for path in shared))
    _own(root / "home/user", USER_ID, USER_ID)


def limit_size(root: str, megabytes: int) -> None:
    """Give a sandbox that is still empty its own disk, which can get full. Raises OSError.

    It is lost with the sandbox's processes.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID, f"mode=755,size={megabytes}m")


def enter(
    root: str,
    windows: list[str],
    shared: dict[str, str],
    hidden: Sequence[str] = (),
    *,
    volumes: str | None = None,
    fuse: bool = False,
) -> None:
    """Mount the sandbox's root and enter it, as the first process of new mount and PID namespaces.

    Args:
        root: the host's directory with the sandbox's files.
        windows: the host's directories of programs and libraries.
        shared: maps directories inside to the host's directories that appear there.
        hidden: programs that are covered.
        volumes: the host's directory of all volumes; `mount_volume` mounts one.
        fuse: whether there is a /dev/fuse.

    Raises:
        OSError: names the refused step.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(root, root, None, linux.MS_BIND | linux.MS_REC)
    own_local = os.open(root + image.LOCAL, os.O_PATH | os.O_DIRECTORY)
    etc_windows = [f"/etc/{name}" for name in _BOUND_ETC if Path("/etc", name).is_dir()]
    for window in [*windows, *etc_windows]:
        target = Path(root + window)
        if not target.is_dir():
            _make_traversable_directory(Path(root), target)
        linux.bind_read_only(window, str(target))
    if Path(image.LOCAL).is_dir():
        _make_traversable_directory(Path(root), Path(root + image.HOST_LOCAL))
        shared = {**shared, image.HOST_LOCAL: image.LOCAL}
    for inside, outside in shared.items():
        linux.bind_read_only(outside, root + inside)
    # The host's /usr is mounted over it.
    linux.mount(f"/proc/self/fd/{own_local}", root + image.LOCAL, None, linux.MS_BIND)
    os.close(own_local)
    if Path(root + image.INTERPRETER).exists():
        linux.bind_read_only(image.host_interpreter(), root + image.INTERPRETER)
    for program in hidden:
        if Path(root + program).is_file():
            linux.mount("/dev/null", os.path.realpath(root + program), None, linux.MS_BIND)
    if volumes is not None:
        _offer_volumes(root, volumes)
    _mount_devices(root + "/dev", ("fuse",) if fuse else ())
    linux.mount("proc", root + "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.change_root(root)


def _offer_volumes(root: str, volumes: str) -> None:
    """Make the volumes reachable for `mount_volume`, in a directory that only root may enter."""
    target = Path(root + _VOLUMES)
    target.mkdir(parents=True, exist_ok=True)
    target.parent.chmod(0o700)
    linux.mount(volumes, str(target), None, linux.MS_BIND)


def mount_volume(volume: str, path: str) -> None:
    """Mount a volume in the sandbox that this process has entered. Raises OSError."""
    Path(path).mkdir(parents=True, exist_ok=True)
    linux.mount(f"{_VOLUMES}/{volume}", path, None, linux.MS_BIND)


def _make_traversable_directory(root: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for parent in target.relative_to(root).parents:
        directory = root / parent
        directory.chmod(directory.stat().st_mode | 0o011)


def _mount_devices(target: str, more: tuple[str, ...] = ()) -> None:
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID, "mode=755,size=64m")
    for name in (*_DEVICES, *more):
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
