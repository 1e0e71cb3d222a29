"""A small single-threaded process from which every sandbox is forked.

The simulator starts it once, with a clean environment. As an ordinary user it first enters a user namespace
in which it is root. Each packet on its control socket brings the socket of a new sandbox, and a fork of this
process becomes PID 1 of new PID, mount, IPC and host name namespaces. All sandboxes share the memory of the
modules imported here, which acts as E2B's memory snapshots.

On a listening socket it serves any number of simulators: each connection is the control socket of a fork.
"""

import gc
import importlib
import os
import signal
import socket
import sys
from pathlib import Path

from managed_session_devkit.simulators.e2b.namespace import init, linux, messages

_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


def _refusal(error: OSError) -> str:
    for setting, blocking in (
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ("user.max_user_namespaces", "0"),
    ):
        path = Path("/proc/sys", setting.replace(".", "/"))
        if path.is_file() and path.read_text().strip() == blocking:
            wanted = {"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "10000"}.get(
                setting, "0"
            )
            return f"ordinary users may not create user namespaces; to allow it: sysctl -w {setting}={wanted}"
    return (
        f"cannot create the namespaces of a sandbox ({error}); run as root, or allow user namespaces "
        "(kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    )


def _take_privileges() -> bool:
    """Get the right to create namespaces. Return whether this is real root. Raises OSError."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        child = os.fork()
        if child == 0:
            try:
                linux.unshare(_NAMESPACES)
            except OSError:
                os._exit(1)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return True
    linux.unshare(linux.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1\n")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1\n")
    child = os.fork()
    if child == 0:
        try:
            linux.unshare(_NAMESPACES)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return False


def _fork_sandbox(
    control: socket.socket, connection: socket.socket, privileged: bool, config: dict[str, object]
) -> None:
    if os.fork():
        return
    try:
        control.close()
        linux.unshare(_NAMESPACES)
        first = os.fork()
        if first == 0:
            init.run(connection, privileged, config)
            os._exit(0)
        messages.send(connection, {"event": "born", "pid": first})
    except OSError as error:
        messages.send(connection, {"event": "failed", "message": str(error)})
    finally:
        os._exit(0)


def _import(names: list[str]) -> list[str]:
    """Import the modules. Return which of them failed, and how."""
    failures = []
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a template's module; start without it
            failures.append(f"{name}: {type(error).__name__}")
    return failures


def _fork_for_simulators(listener: socket.socket) -> socket.socket:
    """Fork a child for each simulator that connects, for ever. Return the child's connection in it."""
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return connection
        connection.close()


def main(descriptor: int, location: str, preload: list[str]) -> None:
    """Serve fork requests until the simulator closes its end of the control socket.

    `location` is `outside` at first, and `inside` once this program runs in its own user namespace. It is
    executed again there, because capabilities of that namespace only reach memory created in it, which
    matters for processes that forbid others to inspect them (prctl(2), PR_SET_DUMPABLE).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    listens = bool(control.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    privileged = False
    if location == "outside":
        try:
            privileged = _take_privileges()
        except OSError as error:
            if not listens:
                messages.send(control, {"event": "failed", "message": _refusal(error)})
            return
        if not privileged:
            again = ["inside" if word == "outside" else word for word in sys.orig_argv]
            os.execv(sys.executable, again)  # noqa: S606 - the same program again
    failures = _import(preload)
    linux.set_process_name("e2b-zygote")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    if listens:
        control = _fork_for_simulators(control)
    linux.become_subreaper()
    messages.send(
        control,
        {"event": "ready", "privileged": privileged, "preload": preload, "preload_failures": failures},
    )
    while (received := messages.receive(control)) is not None:
        config, descriptors = received
        connection = socket.socket(fileno=descriptors[0])
        _fork_sandbox(control, connection, privileged, config)
        connection.close()
