"""The disk that E2B's build makes of a `python:3` template, as far as a simulated sandbox can have it.

Source: e2b-dev/infra at 54693ff, packages/orchestrator/pkg/template/build: `phases/base/provision.sh` (root
has no password, sshd lets root in without one, `/etc/profile` reads root's own files) and
`phases/finalize/configure.sh`, after all steps of a build and before its start command (`user` may sudo
without a password, `/usr/local` may be written by all). Python is in `/usr/local`, as in the image. It is the
host's interpreter; small modules of the standard library are files of the sandbox, and the rest are links.
Some things are missing: what needs its own kernel (256 MB of the disk kept for root, a cgroup with memory.max
for commands), PAM, and a real sshd, which a process of that name replaces.
"""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

LOCAL: Final = "/usr/local"
INTERPRETER: Final = f"{LOCAL}/bin/python3.{sys.version_info.minor}"
SSHD_UNIT: Final = "/etc/systemd/system/multi-user.target.wants/ssh.service"
SSHD_MASK: Final = "/etc/systemd/system/ssh.service"
SSHD_STAND_IN: Final = ("sshd: /usr/sbin/sshd -D [listener]", "infinity")
"""A process with the name of sshd. A real sshd would listen on a port of the host."""
HOST_LOCAL: Final = f"/.image{LOCAL}"
"""Where a sandbox sees the host's /usr/local, because it has its own /usr/local."""
_SMALL_MODULE_BYTES: Final = 4096
_PACKAGE_FOLDERS: Final = ("site-packages", "dist-packages")
"""Debian's own Python uses only the second."""
_NOPASSWD: Final = "user ALL=(ALL:ALL) NOPASSWD: ALL\n"
_FILES: Final = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "user:x:1000:1000::/home/user:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": "root:x:0:\nsudo:x:27:user\nuser:x:1000:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/shadow": "root::20000:0:99999:7:::\nuser::20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\n",
    "etc/sudoers": "root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n",
    "etc/ssh/sshd_config": "PermitRootLogin yes\nPermitEmptyPasswords yes\nPasswordAuthentication yes\n",
    # Debian's file, with the additions of provisioning.
    "etc/profile": (
        'if [ "$(id -u)" -eq 0 ]; then\n'
        f'  PATH="{LOCAL}/sbin:{LOCAL}/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n'
        f'else\n  PATH="{LOCAL}/bin:/usr/bin:/bin:{LOCAL}/games:/usr/games"\nfi\nexport PATH\n'
        "if [ -d /etc/profile.d ]; then\n  for i in /etc/profile.d/*.sh; do\n"
        "    if [ -r $i ]; then . $i; fi\n  done\n  unset i\nfi\n"
        "export PS1='\\w \\$ '\n"
        "if [ -f ~/.bashrc ]; then source ~/.bashrc; fi; if [ -f ~/.profile ]; then source ~/.profile; fi\n"
    ),
    "etc/profile.d/shell.sh": "export SHELL='/bin/bash'\n",
    "etc/profile.d/prompt.sh": "export PS1='\\w \\$ '\n",
    "root/.bashrc": "export PS1='\\w \\$ '\n",
}
LACKS: Final = {
    "simulated/no-python": frozenset({"python"}),
    "simulated/no-bash": frozenset({"bash"}),
}
"""Images that lack something; all others are like `python:3`. Without Python there is no package manager."""
_PACKAGE_MANAGERS: Final = ("apt-get", "apk", "dnf", "microdnf", "zypper", "pacman")


def hidden(lacks: frozenset[str]) -> tuple[str, ...]:
    """Return the host's programs that an image with these lacks must not show."""
    if "python" not in lacks:
        return ()
    pythons = (path for path in Path("/usr/bin").glob("python3*") if not path.is_symlink())
    return (*map(str, pythons), *(f"/usr/bin/{name}" for name in _PACKAGE_MANAGERS))


def remove_python(root: Path) -> None:
    """Remove the image's own Python from a layer. Raises OSError."""
    local = root / LOCAL.lstrip("/")
    for path in (*local.glob("bin/python*"), *local.glob("lib/python3*"), *local.glob("lib/libpython*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def install_packages(root: Path, folder: str) -> None:
    """Make a folder of a layer a link to the packages of the simulator's environment. Raises OSError."""
    target = root / folder.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if (packages := _host_packages()) is not None:
        target.symlink_to(_inside(packages))


def _host_packages() -> str | None:
    return next((path for path in sys.path if path.endswith("site-packages")), None)


def host_interpreter() -> str:
    """Return the path of the host's Python, with links resolved. It is in the sandbox's `/usr/local/bin`."""
    return os.path.realpath(sys.executable)


def _inside(host_path: Path | str) -> str:
    """Return the path that a file of the host's Python has in a sandbox."""
    path = str(host_path)
    return path.replace(LOCAL, HOST_LOCAL, 1) if path.startswith(f"{LOCAL}/") else path


def provision(root: Path) -> None:
    """Write the files of the base image and of E2B's provisioning. Raises OSError."""
    for name, text in _FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (root / "etc/shadow").chmod(0o640)
    (root / "etc/sudoers").chmod(0o440)
    unit = root / SSHD_UNIT.lstrip("/")
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.symlink_to("/usr/lib/systemd/system/ssh.service")
    _install_python(root)


def _install_python(root: Path) -> None:
    """Install Python in `/usr/local`, with the site-packages of the simulator's environment."""
    host_library = Path(os.__file__).parent
    library = root / LOCAL.lstrip("/") / "lib" / host_library.name
    for directory in (library, root / INTERPRETER.lstrip("/").rpartition("/")[0]):
        directory.mkdir(parents=True, exist_ok=True)
    for name in ("sbin", "share"):
        (root / LOCAL.lstrip("/") / name).mkdir(exist_ok=True)
    (root / INTERPRETER.lstrip("/")).touch(mode=0o755)
    for name in ("python3", "python"):
        (root / LOCAL.lstrip("/") / "bin" / name).symlink_to(INTERPRETER.rpartition("/")[2])
    for entry in host_library.iterdir():
        target = library / entry.name
        if entry.name in _PACKAGE_FOLDERS:
            continue
        if entry.suffix == ".py" and entry.is_file() and entry.stat().st_size <= _SMALL_MODULE_BYTES:
            target.write_bytes(entry.read_bytes())
        else:
            target.symlink_to(_inside(entry))
    for entry in host_library.parent.glob("libpython*.so*"):
        (library.parent / entry.name).symlink_to(_inside(entry))
    if (packages := _host_packages()) is not None:
        for name in _PACKAGE_FOLDERS:
            (library / name).symlink_to(_inside(packages))


def finalize(root: Path) -> None:
    """Run E2B's own last step before the start command. Raises OSError."""
    (root / ".e2b").write_text("ENV_ID=simulated\n")
    sudoers = root / "etc/sudoers"
    if _NOPASSWD not in sudoers.read_text():
        sudoers.chmod(0o640)
        sudoers.write_text(sudoers.read_text() + _NOPASSWD)
        sudoers.chmod(0o440)
    for directory, names, files in os.walk(root / LOCAL.lstrip("/")):
        for name in (".", *names, *files):
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(0o777)


def sshd_starts(root: str = "/") -> bool:
    """Return whether a boot starts sshd: its unit is enabled and not masked."""
    mask = Path(root, SSHD_MASK.lstrip("/"))
    masked = False
    with suppress(OSError):
        masked = str(mask.readlink()) == "/dev/null"
    return Path(root, SSHD_UNIT.lstrip("/")).is_symlink() and not masked
