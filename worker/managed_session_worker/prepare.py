"""Runs as the last step of a template's build: makes the user, directories, and a Python of root's own.

    python3 /opt/anthropic-managed-agents/lib/managed_session_worker/prepare.py

E2B makes the image's Python, which is in /usr/local, writable for everyone. So this program copies the
interpreter, the standard library, the shared library and the packages that the worker needs to
/opt/anthropic-managed-agents. The copy runs with `-I -S`: it ignores variables, `.pth` files, `sitecustomize`
and all directories but its own. This program itself runs as root with the image's Python, or with one that
the build has put there already (`interpreter.sh`). It fails if the copy would still use files of the image's
Python; the command line reads its last line.
"""

import compileall
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from managed_session_worker.paths import Paths

AGENT_ACCOUNT = "agent"
USUAL_WORKDIR = "workspace"
"""The platform's usual working directory, which skills and prompts rely on."""
NEEDED = "anthropic"
LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "distutils",
    "pydoc_data",
    "config-*",
)
"""Parts of the standard library that a worker does not need."""
_OPTIMISED = ("*.opt-1.pyc", "*.opt-2.pyc")
USERADD = "usr/sbin/useradd"
SYSTEM_PREFIX = "/usr"
"""Where distributions install Python. It belongs to root, and E2B leaves it so, unlike /usr/local."""
FIRST_ACCOUNT = 1001
"""1000 is E2B's own account `user`."""
CHECK_SECONDS = 120
LONGEST_REASON = 500
_CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
from managed_session_worker import permission_audit, preload
preload.load()
modules = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
files = modules | permission_audit.shared_objects()
foreign = [file for file in files if file.startswith(tuple(tree + "/" for tree in sys.argv[2:]))]
sys.exit("the copied Python still uses " + ", ".join(sorted(foreign)[:5]) if foreign else 0)
"""


def main() -> int:
    """Prepare the image that this runs in. Return the exit status: 66 if another Python is needed."""
    os.umask(0o022)
    paths = Paths.from_environment()
    make_account(Path(paths.root))
    make_directories(paths)
    try:
        copy_python(Path(paths.python))
        copy_packages(Path(paths.library), Path(paths.build))
        for tree in (paths.python, paths.library):
            give_to_root(Path(tree))
            compileall.compile_dir(tree, quiet=2, workers=os.cpu_count() or 1)
        check(paths)
    except (OSError, shutil.Error, subprocess.SubprocessError, metadata.PackageNotFoundError) as error:
        libc = "musl" if any(Path("/lib").glob("ld-musl-*")) else "gnu"
        where = f"libc={libc} arch={platform.machine()}"
        why = " ".join(str(error).split())[:LONGEST_REASON]
        sys.stdout.write(f"managed-sessions: needs an interpreter: {where}: {sys.executable} cannot be ")
        sys.stdout.write(f"copied: {why}\n")
        return 66
    shutil.rmtree(paths.build, ignore_errors=True)
    return 0


def make_account(root: Path) -> None:
    """Create the user of worker and agent, unless it exists or only root can exist (user_namespaces(7)).

    Without useradd(8) it writes the lines itself, with a password that no login matches (shadow(5)).
    """
    ids = Path("/proc/self/uid_map").read_text().split()
    accounts = root / "etc/passwd"
    known = accounts.read_text() if accounts.exists() else ""
    found = re.search(rf"^{AGENT_ACCOUNT}:[^:]*:(\d+):", known, re.MULTILINE)
    if found is not None and int(found[1]) == 0:
        raise SystemExit(f"managed-sessions: refused: the image's user {AGENT_ACCOUNT} is root. Rename it")
    if ids[2:] == ["1"] or found is not None:
        return
    if (root / USERADD).exists():
        subprocess.run(  # noqa: S603 - no input
            [f"/{USERADD}", "--create-home", "--user-group", "--shell", "/bin/bash", AGENT_ACCOUNT],
            check=True,
        )
        return
    groups = root / "etc/group"
    taken = {int(number) for number in re.findall(r"^[^:]*:[^:]*:(\d+)", known, re.MULTILINE)}
    if groups.exists():
        taken |= {int(n) for n in re.findall(r"^[^:]*:[^:]*:(\d+)", groups.read_text(), re.MULTILINE)}
    number = next(each for each in range(FIRST_ACCOUNT, FIRST_ACCOUNT + len(taken) + 1) if each not in taken)
    home = root / "home" / AGENT_ACCOUNT
    _append(groups, f"{AGENT_ACCOUNT}:x:{number}:\n")
    if (root / "etc/shadow").exists():
        _append(root / "etc/shadow", f"{AGENT_ACCOUNT}:!::0:99999:7:::\n")
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, number, number)
    # Last, because an account with this line is taken for complete.
    _append(accounts, f"{AGENT_ACCOUNT}:x:{number}:{number}::/home/{AGENT_ACCOUNT}:/bin/bash\n")


def _append(file: Path, line: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_text() if file.exists() else ""
    if before and not before.endswith("\n"):
        line = "\n" + line
    if line.strip() not in before.splitlines():
        with file.open("a") as stream:
            stream.write(line)


def make_directories(paths: Paths) -> None:
    """Make the directories outside our own folder while root owns their parents: nobody can plant a link."""
    for directory in (paths.exits, paths.workdir, paths.memory):
        Path(directory).mkdir(parents=True, exist_ok=True)
    usual = Path(paths.root, USUAL_WORKDIR)
    if not usual.is_symlink() and not usual.exists():
        usual.symlink_to(paths.workdir)


def copy_python(target: Path) -> None:
    """Copy the interpreter that runs this program, with the libraries that a worker needs.

    A Python that is in `target` already stays as it is: the build has brought it. Links that lead nowhere are
    left out; distributions have such links to files of packages that are not installed.
    """
    if Path(sys.executable).resolve().is_relative_to(target.resolve()):
        return
    library = Path(os.__file__).parent
    beside = target / sys.platlibdir
    (target / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path(sys.executable).resolve(), target / "bin/python3")
    shutil.copytree(
        library,
        beside / library.name,
        ignore=shutil.ignore_patterns(*LEFT_OUT, *_OPTIMISED),
        ignore_dangling_symlinks=True,
        dirs_exist_ok=True,
    )
    shared = sysconfig.get_config_var("INSTSONAME") or ""
    folders = (library.parent, Path(sysconfig.get_config_var("LIBDIR") or library.parent))
    found = next((folder for folder in folders if (folder / shared).is_file()), None)
    if ".so" in shared and found is not None:
        (target / "lib").mkdir(exist_ok=True)
        shutil.copy2(found / shared, target / "lib" / shared)
        search_beside(target / "bin/python3", {str(folder) for folder in folders})


def search_beside(program: Path, folders: set[str]) -> None:
    """Make a copied program load its shared library from beside itself instead of its original folder.

    Docker's Python images do so already (RUNPATH `$ORIGIN/../lib`, ld.so(8)). In other builds the RUNPATH
    names a folder; it is overwritten in place with the shorter string.
    """
    content = program.read_bytes()
    for folder in folders:
        old, new = f"\0{folder}\0".encode(), b"\0$ORIGIN/../lib\0"
        if len(new) <= len(old):
            content = content.replace(old, new.ljust(len(old), b"\0"))
    if content != program.read_bytes():
        program.write_bytes(content)


def copy_packages(target: Path, installed: Path) -> None:
    """Copy the SDK and its requirements from the image's packages.

    Args:
        target: Where they go.
        installed: A folder into which the build has installed them; if there is none, they are the image's.

    Raises:
        PackageNotFoundError: The SDK is not installed.
    """
    copied: set[str] = set()
    pending = [NEEDED]
    # Without the packages that an earlier run has copied.
    image = [entry for entry in sys.path if Path(entry or ".").resolve() != target.resolve()]
    if (installed / "packages").is_dir():
        image = [str(installed / "packages")]
    while pending:
        name = pending.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in copied:
            continue
        copied.add(key)
        package = next(iter(metadata.distributions(name=name, path=image)), None)
        if package is None and name == NEEDED:
            raise metadata.PackageNotFoundError(name)
        if package is None:
            continue  # The requirement is for another platform or version of Python.
        for requirement in package.requires or []:
            if "extra ==" not in requirement:
                pending += re.findall(r"^[A-Za-z0-9._-]+", requirement)
        for entry in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "/")}:
            _copy(Path(str(package.locate_file(entry))), target / entry)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(
            source,
            target,
            ignore=shutil.ignore_patterns(*_OPTIMISED),
            ignore_dangling_symlinks=True,
            dirs_exist_ok=True,
        )
    elif source.is_file():
        shutil.copy2(source, target)


def give_to_root(tree: Path) -> None:
    """Make a tree readable for everyone and writable for root alone."""
    for directory, names, files in os.walk(tree):
        for name in (".", *names, *files):
            path = f"{directory}/{name}"
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                continue
            if found.st_uid != 0:
                os.chown(path, 0, 0)
            mode = 0o755 if found.st_mode & 0o100 or stat.S_ISDIR(found.st_mode) else 0o644
            if stat.S_IMODE(found.st_mode) != mode:
                os.chmod(path, mode)  # noqa: PTH101 - thousands of them


def check(paths: Paths) -> None:
    """Run the copied Python once, as the supervisor will.

    Raises:
        SubprocessError: It lacks something, or uses files of the Python that it was copied from.
    """
    ran = subprocess.run(  # noqa: S603 - our own files
        [paths.own_interpreter, "-I", "-S", "-c", _CHECK, paths.library, *_trees_left(paths)],
        timeout=CHECK_SECONDS,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise subprocess.SubprocessError((ran.stderr.strip() or f"exit status {ran.returncode}")[-400:])


def _trees_left(paths: Paths) -> list[str]:
    """Return the trees of the image's Python that the copy must not use.

    That is all of its prefix, unless this is the system's own. Then other files there, such as libraries that
    the distribution's Python shares with other programs, may be used.
    """
    prefix = str(Path(sys.base_prefix).resolve())
    if Path(prefix).is_relative_to(Path(paths.python).resolve()):
        return ["/usr/local"]
    return ["/usr/local", prefix if prefix != SYSTEM_PREFIX else str(Path(os.__file__).parent)]


if __name__ == "__main__":
    sys.exit(main())
