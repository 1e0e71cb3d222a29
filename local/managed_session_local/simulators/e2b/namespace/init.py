"""PID 1 of a sandbox: the stand-in for the virtual machine's kernel and for envd's process runner.

It mounts the sandbox's root, then serves one request after the other from the simulator's socket: run a
program, send a signal, freeze and thaw everything, file operations. It reaps orphans and ends as soon as the
simulator is gone; the kernel then kills whatever is left in its PID namespace.
"""

import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from managed_session_local.simulators.e2b.namespace import clock, files, freezing, linux, messages, root

_HIGHEST_DESCRIPTOR = 4096


class Init:
    """State of one sandbox's first process."""

    def __init__(self, connection: socket.socket, privileged: bool, clock_offset_seconds: int) -> None:
        self._connection = connection
        self._privileged = privileged
        self._clock_offset_seconds = clock_offset_seconds
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
            "file": self._file,
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
        if self._frozen:  # a command that lost the race against a pause
            raise OSError(errno.EAGAIN, "the sandbox is paused")
        if request.get("script"):
            pid = self._fork_script(request, descriptors)
        else:
            identity: dict[str, Any] = {}
            if self._privileged and request["user"] != 0:
                identity = {"user": request["user"], "group": request["user"], "extra_groups": []}
            process = subprocess.Popen(  # noqa: S603 - running what it is asked to is this process's purpose
                request["command"],
                stdin=descriptors[0],
                stdout=descriptors[1],
                stderr=descriptors[2],
                env=request["environment"],
                cwd=request["directory"],
                **identity,
            )
            process.returncode = 0  # _reap collects the exit; Popen must not look for it
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
            _become_script_process(request, descriptors, self._privileged)
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
        severed = freezing.sever_connections() if request["sever"] else 0
        return {"severed": severed}, []

    def _thaw(self, _: dict[str, Any], __: list[int]) -> tuple[dict[str, Any], list[int]]:
        freezing.thaw(self._stopped_before_freeze)
        self._frozen = False
        return {}, []

    def _file(self, request: dict[str, Any], _: list[int]) -> tuple[dict[str, Any], list[int]]:
        return files.perform(request, self._privileged)


def _become_script_process(request: dict[str, Any], descriptors: list[int], privileged: bool) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, _HIGHEST_DESCRIPTOR)
    linux.set_process_name("python3")
    linux.set_command_line(["python3", *request["script"]])
    if privileged:
        linux.forget_dangerous_capabilities()
        if request["user"] != 0:
            os.setgroups([])
            os.setgid(request["user"])
            os.setuid(request["user"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])


def _execute_script(arguments: list[str]) -> int:
    """What the interpreter does for `python3 script arguments…`; the exit code."""
    sys.argv = arguments
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process's own streams
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    main = types.ModuleType("__main__")
    main.__file__ = arguments[0]
    sys.modules["__main__"] = main
    added = [str(Path(arguments[0]).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    sys.path[:] = [*added, *(entry for entry in sys.path if Path(entry).is_dir())]
    code = 0
    try:
        source = Path(arguments[0]).read_bytes()
        exec(compile(source, arguments[0], "exec"), main.__dict__)  # noqa: S102 - this is what an interpreter does
    except SystemExit as request:
        code = _exit_code(request)
    except BaseException:  # noqa: BLE001 - the interpreter prints it and ends with 1
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
    """Be PID 1: set the root up, report `ready`, serve. Returns when the simulator is gone."""
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
        if config["layers"]:
            root.populate(Path(config["root"]), config["layers"])
        root.enter(config["root"], config["windows"])
        socket.sethostname("e2b.local")
        if privileged:
            linux.drop_dangerous_capabilities()
    except OSError as error:
        messages.send(connection, {"event": "failed", "message": str(error)})
        return
    messages.send(connection, {"event": "ready"})
    Init(connection, privileged, config["clock_offset_seconds"]).serve()
