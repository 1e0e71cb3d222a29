"""PID 1 of a sandbox, which acts as the virtual machine's kernel and as envd's process runner.

It mounts the sandbox's root, and then serves requests from the simulator's socket one after the other: run a
program, send a signal, freeze or thaw all processes, run a file operation. It reaps orphans. It ends when the
simulator is gone, and the kernel then kills everything in its PID namespace.
"""

import errno
import fcntl
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import termios
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from managed_session_devkit.simulators.e2b.namespace import (
    clock,
    files,
    freezing,
    image,
    linux,
    messages,
    root,
)

_HIGHEST_DESCRIPTOR = 4096


class Init:
    """The state of one sandbox's first process."""

    def __init__(self, connection: socket.socket, privileged: bool, config: dict[str, Any]) -> None:
        self._connection = connection
        self._privileged = privileged
        self._clock_offset_seconds = config["clock_offset_seconds"]
        self._kept_capability = _kept_capability(config)
        self._children: set[int] = set()
        self._stopped_before_freeze: set[int] = set()
        self._frozen = False
        self._operations: dict[
            str, Callable[[dict[str, Any], list[int]], tuple[dict[str, Any], list[int]]]
        ] = {
            "run": self._run,
            "signal": self._signal,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "cut": self._cut,
            "file": self._file,
            "volume": self._volume,
        }

    def serve(self) -> None:
        """Answer requests until the simulator closes its end."""
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(wakeup_read, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._connection:
                        received = messages.receive(self._connection)
                        if received is None:
                            return
                        self._answer(*received)
                    else:
                        os.read(wakeup_read, 4096)
                self._reap()

    def _answer(self, request: dict[str, Any], descriptors: list[int]) -> None:
        try:
            reply, attached = self._operations[request["operation"]](request, descriptors)
        except OSError as error:
            reply, attached = {"error": error.strerror or str(error), "errno": error.errno}, []
        except (KeyError, ValueError, TypeError, subprocess.SubprocessError) as error:
            reply, attached = {"error": str(error), "errno": 0}, []
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        messages.send(self._connection, {"id": request["id"], **reply}, attached)
        for descriptor in attached:
            os.close(descriptor)

    def _reap(self) -> None:
        # As the supervisor's Reaper, which is the worker's: the machine does not know what runs in it.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._children.discard(pid)
                messages.send(
                    self._connection,
                    {"event": "exited", "pid": pid, "code": os.waitstatus_to_exitcode(status)},
                )

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        if self._frozen:  # the command came after a pause
            raise OSError(errno.EAGAIN, "the sandbox is paused")
        if request.get("script"):
            pid = self._fork_script(request, descriptors)
        else:
            identity: dict[str, Any] = {}
            if self._privileged and request["user"] != 0:
                identity = {"user": request["user"], "group": request["user"], "extra_groups": []}
            process = subprocess.Popen(  # noqa: S603 - this process exists to run requested programs
                request["command"],
                stdin=descriptors[0],
                stdout=descriptors[1],
                stderr=descriptors[2],
                env=request["environment"],
                cwd=request["directory"],
                start_new_session=bool(request.get("terminal")),
                preexec_fn=_take_terminal if request.get("terminal") else None,  # noqa: PLW1509 - no threads
                **identity,
            )
            _prefer_to_kill(process.pid)
            process.returncode = 0  # _reap collects the exit, so Popen must not wait for it
            pid = process.pid
        self._children.add(pid)
        return {"pid": pid}, []

    def _fork_script(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Run a Python script in a fork of this process, with the modules that the zygote imported."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            _become_script_process(request, descriptors, self._privileged, self._kept_capability)
            clock.shift(self._clock_offset_seconds)
            code = _execute_script(request["script"])
        finally:
            os._exit(code)

    def _signal(self, request: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        os.kill(request["pid"], request["signal"])
        return {}, []

    def _freeze(self, request: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        self._frozen = True
        self._stopped_before_freeze = freezing.freeze()
        severed = freezing.sever_connections(silently=request["silently"]) if request["sever"] else 0
        return {"severed": severed}, []

    def _cut(self, _: dict[str, Any], __: list[int]) -> tuple[dict[str, Any], list[int]]:
        return {"severed": freezing.sever_connections(silently=True)}, []

    def _thaw(self, _: dict[str, Any], __: list[int]) -> tuple[dict[str, Any], list[int]]:
        freezing.thaw(self._stopped_before_freeze)
        self._frozen = False
        return {}, []

    def _file(self, request: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        return files.perform(request, self._privileged)

    def _volume(self, request: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        root.mount_volume(request["volume"], request["path"])
        return {}, []


def _take_terminal() -> None:
    """Make the standard input the terminal of the session that was just begun.

    The terminal's signals are not ignored, even if whoever started the simulator ignores them.
    """
    for each in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(each, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _prefer_to_kill(pid: int) -> None:
    """Have the kernel kill it before the machine's processes if memory is short, as envd does."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("100")


def _kept_capability(config: dict[str, Any]) -> str | None:
    """Return what root in this sandbox may do although it is dangerous: mount file systems."""
    return "CAP_SYS_ADMIN" if config["fuse"] else None


def _become_script_process(
    request: dict[str, Any], descriptors: list[int], privileged: bool, kept: str | None
) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, _HIGHEST_DESCRIPTOR)
    _prefer_to_kill(os.getpid())
    linux.set_process_name("python3")
    linux.set_command_line(["python3", *request["script"][2:]])
    if privileged:
        linux.forget_dangerous_capabilities(but=kept)
        if request["user"] != 0:
            os.setgroups([])
            os.setgid(request["user"])
            os.setuid(request["user"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])


def _imitate_interpreter(interpreter: str, flags: str, script: str) -> None:
    """Make a program see another interpreter and import path."""
    path = shutil.which(interpreter, path=os.environ.get("PATH"))
    if path is None:
        raise FileNotFoundError(errno.ENOENT, "no such interpreter", interpreter)
    sys.executable = path
    prefix = Path(path).parent.parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = prefix / "lib" / f"python{version}"
    entries = [
        str(library.with_name(f"python{version.replace('.', '')}.zip")),
        str(library),
        str(library / "lib-dynload"),
    ]
    if "S" not in flags:
        entries.append(str(library / "site-packages"))
    if "I" not in flags:
        entries[:0] = [str(Path(script).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    sys.path[:] = entries


def _execute_script(command: list[str]) -> int:
    """Do what `python3 [flags] script arguments…` does, and return the exit code."""
    interpreter, flags, *arguments = command
    sys.argv = arguments
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process's own streams
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    main = types.ModuleType("__main__")
    main.__file__ = arguments[0]
    sys.modules["__main__"] = main
    code = 0
    try:
        _imitate_interpreter(interpreter, flags, arguments[0])
        source = Path(arguments[0]).read_bytes()
        exec(compile(source, arguments[0], "exec"), main.__dict__)  # noqa: S102 - an interpreter does this
    except SystemExit as request:
        code = _exit_code(request)
    except BaseException:  # noqa: BLE001 - an interpreter prints the error and exits with 1
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _exit_code(request: SystemExit) -> int:
    if request.code is None:
        return 0
    if isinstance(request.code, int):
        return request.code & 0xFF
    print(request.code, file=sys.stderr)
    return 1


def run(connection: socket.socket, privileged: bool, config: dict[str, Any]) -> None:
    """Run as PID 1: set up the root, report `ready`, serve. Returns when the simulator is gone."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    keep = connection.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, _HIGHEST_DESCRIPTOR)
    linux.set_process_name("e2b-init")
    linux.set_command_line(["e2b-init"])
    os.umask(0o022)
    try:
        if config["disk_megabytes"]:
            root.limit_size(config["root"], config["disk_megabytes"])
        shared = config["shared"]
        if config["populate"]:
            root.populate(Path(config["root"]), config["layer"], shared)
        root.enter(
            config["root"],
            config["windows"],
            {path: config["layer"] + path for path in shared},
            config["hidden"],
            volumes=config["volumes"],
            fuse=config["fuse"],
        )
        socket.sethostname("e2b.local")
        if privileged:
            linux.drop_dangerous_capabilities(but=_kept_capability(config))
    except OSError as error:
        messages.send(connection, {"event": "failed", "message": str(error)})
        return
    if image.sshd_starts():
        subprocess.Popen(image.SSHD_STAND_IN, executable="/bin/sleep", stdin=subprocess.DEVNULL)  # noqa: S603
    messages.send(connection, {"event": "ready"})
    Init(connection, privileged, config).serve()
