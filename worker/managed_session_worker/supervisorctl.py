"""Control the supervisor: send it a request and print the events that it answers with, one JSON line each.

    python3 -I -S supervisorctl.py start CLAIM        (reads the request from the inbox)
    python3 -I -S supervisorctl.py watch CLAIM        (MANAGED_SESSION_EPOCH: reject lower epochs from now on;
                                                       MANAGED_SESSION_RESUMED=yes: a pause has just ended)
    python3 -I -S supervisorctl.py stop CLAIM EPOCH
    python3 -I -S supervisorctl.py status

In a sandbox that several sessions share, each of them has a supervisor of its own:

    python3 -I -S supervisorctl.py session KEY start|watch|stop|status …  (as above, for one session)
    python3 -I -S supervisorctl.py session KEY enter                      (prints the supervisor's `status`)
    python3 -I -S supervisorctl.py session KEY run PROGRAM ARGUMENT…      (as root, in its mount namespace)
    python3 -I -S supervisorctl.py session KEY leave                      (ends and removes the session)

The operator runs this once per turn, so it must start quickly: it uses the standard library only, and little
of it (`pathlib` alone would add a third to its start). If no supervisor runs (cold boot, out of memory), it
starts one, detached. It continues a supervisor that a signal has stopped, and kills one that does not answer,
so that the next one can.
The session's supervisor is started if none runs. All this may be repeated at any time.
Exit status: 0 after `exited` or `status`, 1 after `refused`, 2 for wrong arguments.
"""

# ruff: noqa: PTH100, PTH103, PTH108, PTH110, PTH118, PTH119, PTH120, PTH123

import errno
import json
import os
import signal
import socket
import struct
import sys
import time

if __name__ == "__main__":  # run by path, with -I -S: our package is not importable yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from managed_session_worker.paths import ROOT_VARIABLE, SOCKET_NAME, Paths, within_directory
from managed_session_worker.permission_audit import PermissionAudit
from managed_session_worker.wire import (
    EPOCH_VARIABLE,
    FINAL_EVENTS,
    RESUMED_VARIABLE,
    SESSION_KEY,
    RefusalCode,
    RequestRejectedError,
    refused,
)

SUPERVISOR_START_SECONDS = 60.0
"""How long a supervisor may take to create its socket (it imports `anthropic`, perhaps from a cold disk)."""
FIRST_ANSWER_SECONDS = 30.0
"""How long the first answer may take: the supervisor may first have to kill a superseded worker."""
CHECK_SECONDS = 2.0
"""How often to check a silent supervisor. It is continued when two checks in a row find it stopped."""
PING_SECONDS = 10.0
"""How often to send a ping. The operator takes a stream for dead after 30 s of silence."""
RECONNECT_ATTEMPTS = 3
ASK_AGAIN_SECONDS = 5.0
"""How often the sandbox's supervisor is asked to start a session's, as long as that one does not listen."""
LEAVE_SECONDS = 20.0
"""How long a session's supervisor may take to end all that it has started."""
LEAVE_ATTEMPTS = 3
REPEATED_EVENTS = frozenset({"awaiting", "call"})
"""Events that are sent again each time their content changes."""
MAX_REQUEST_BYTES = 256 * 1024
SUPERVISOR_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

USAGE = (
    "usage: supervisorctl.py [session KEY] start CLAIM | watch CLAIM | stop CLAIM EPOCH | status\n"
    "       supervisorctl.py session KEY enter | run PROGRAM ARGUMENT... | leave\n"
)

Event = dict[str, object]
TYPE_CHECKING = False  # typing alone would take as long as all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator


def take_request(paths: Paths, claim: str) -> Event:
    """Read the request for `claim` from the inbox, and remove it before anything else happens.

    Raises:
        RequestRejectedError: There is no such file, or it is not a JSON object for this claim.
    """
    if os.path.basename(claim) != claim or claim.startswith("."):
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, f"{claim!r} is not the name of a claim")
    path = paths.request(claim)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise RequestRejectedError(
            RefusalCode.BAD_REQUEST, f"no request in the inbox for this claim: {error.strerror}"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        os.unlink(path)
        data = file.read(MAX_REQUEST_BYTES + 1)
    if len(data) > MAX_REQUEST_BYTES:
        raise RequestRejectedError(
            RefusalCode.BAD_REQUEST, f"the request is larger than {MAX_REQUEST_BYTES} bytes"
        )
    try:
        request = json.loads(data)
    except ValueError:
        # The decoder's message would quote the document, which holds a credential.
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, "the request in the inbox is not JSON") from None
    if not isinstance(request, dict) or request.get("claim") != claim:
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, "the request in the inbox is for another claim")
    request["command"] = "start"
    # E2B gives a sandbox's variables to its commands, such as this one, and not to the supervisor.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ANTHROPIC_")}
    requested = request.get("environment")
    request["environment"] = {**inherited, **(requested if isinstance(requested, dict) else {})}
    return request


def connect(paths: Paths) -> socket.socket:
    """Connect to the supervisor; start one if none listens.

    Raises:
        RequestRejectedError: No supervisor came up in time.
    """
    deadline = time.monotonic() + SUPERVISOR_START_SECONDS
    asked: float | None = None
    while True:
        connection = _try_connect(paths)
        if connection is not None:
            return connection
        if asked is not None and os.path.exists(paths.refusal):
            raise _refusal(paths)
        if paths.session and (asked is None or time.monotonic() > asked + ASK_AGAIN_SECONDS):
            _ask_to_enter(paths)
            asked = time.monotonic()
        elif asked is None:
            _start_supervisor(paths)
            asked = time.monotonic()
        if time.monotonic() > deadline:
            raise RequestRejectedError(
                RefusalCode.START_FAILED,
                f"no supervisor listened within {SUPERVISOR_START_SECONDS:.0f} s; see {paths.supervisor_log}",
            )
        time.sleep(0.02)


def _refusal(paths: Paths) -> RequestRejectedError:
    """Read why no supervisor serves. The file of a session's supervisor begins with a code."""
    with open(paths.refusal) as file:
        text = file.read()
    code, _, why = text.partition("\n")
    if code == RefusalCode.SHARING_UNSUPPORTED:
        return RequestRejectedError(RefusalCode.SHARING_UNSUPPORTED, why)
    return RequestRejectedError(RefusalCode.WRITABLE_BY_OTHERS, text)


def _ask_to_enter(paths: Paths) -> None:
    """Have the sandbox's supervisor start that of the session, unless it lives.

    Raises:
        RequestRejectedError: it refused, or there is none.
    """
    with connect(paths.of_session("")) as connection:
        try:
            connection.sendall(json.dumps({"command": "enter", "session": paths.session}).encode() + b"\n")
            for line in event_lines(connection):
                event = json.loads(line)
                if event.get("event") == "refused":
                    raise RequestRejectedError(RefusalCode(event["code"]), event["message"])
                if event.get("event") in FINAL_EVENTS:
                    return
        except (ConnectionError, ValueError):
            return  # It has died. The next one is asked again.


def _try_connect(paths: Paths) -> socket.socket | None:
    try:
        directory = os.open(paths.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(5)
        connection.connect(within_directory(directory, SOCKET_NAME))
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
            return None
        raise
    finally:
        os.close(directory)
    return connection


def _start_supervisor(paths: Paths) -> None:
    """Start a supervisor that outlives this process and inherits none of its descriptors."""
    os.makedirs(paths.home, mode=0o755, exist_ok=True)
    if os.fork() != 0:
        os.wait()
        return
    try:
        os.setsid()
        if os.fork() == 0:
            log = os.open(paths.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.closerange(3, 256)
            program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "supervisor.py")
            command = [*_interpreter(paths), program]
            # Without the sandbox's variables: the loader, OpenSSL and Python would obey some of them.
            kept = {name: os.environ[name] for name in (ROOT_VARIABLE, "HOME", "USER") if name in os.environ}
            os.execve(command[0], command, {"PATH": SUPERVISOR_PATH, **kept})  # noqa: S606
    finally:
        os._exit(0)


def _interpreter(paths: Paths) -> list[str]:
    """Return our own interpreter or, in an image without it, the one that the first supervisor used."""
    if os.path.exists(paths.own_interpreter):
        return [paths.own_interpreter, "-I", "-S"]
    try:
        with open(paths.interpreter) as file:
            return [file.read().strip() or sys.executable, "-I"]
    except OSError:
        return [sys.executable, "-I"]


def check_permissions(paths: Paths) -> None:
    """Check, at each start, that only root can write to the directories that root runs programs from.

    A supervisor closes what E2B has left open before it answers. If it is still starting, wait for it and
    check again.

    Raises:
        RequestRejectedError: Others than root may write to one of them.
    """
    if os.geteuid() == 0 and _writable_directories(paths):
        connect(paths).close()
        if found := _writable_directories(paths):
            raise RequestRejectedError(RefusalCode.WRITABLE_BY_OTHERS, "; ".join(found[:5]))


def _writable_directories(paths: Paths) -> "list[str]":
    audit = PermissionAudit(paths.root)
    for path in (sys.executable, os.path.abspath(__file__), paths.run, paths.inbox, *sys.path):
        audit.path(path)
    for folder in SUPERVISOR_PATH.split(":"):
        audit.path(os.path.join(paths.root, folder[1:]), system=True)
    return audit.findings


def exchange(paths: Paths, request: Event) -> int:
    """Send `request`, print events until the final one, and return the exit status.

    If the connection ends early, the supervisor has died, or was killed because it gave no answer. Its
    successor knows how the claim ended, so the claim is then watched there. No event is printed twice.
    """
    printed: set[object] = set()
    for attempt in range(RECONNECT_ATTEMPTS):
        if attempt:
            if "claim" not in request:
                break
            request = {"command": "watch", "claim": request["claim"]}
        with connect(paths) as connection:
            try:
                connection.sendall(json.dumps(request).encode() + b"\n")
                for line in event_lines(connection):
                    event = json.loads(line)
                    name = event.get("event")
                    if name in printed and name not in REPEATED_EVENTS:
                        continue
                    if name != "ping":
                        printed.add(name)
                    print_event(event)
                    if name in FINAL_EVENTS:
                        return 1 if name == "refused" else 0
            except (ConnectionError, ValueError):
                pass
    raise RequestRejectedError(RefusalCode.START_FAILED, "the supervisor ended before it answered")


def event_lines(connection: socket.socket) -> "Iterator[bytes]":
    """Yield the supervisor's lines, with pings between them, until it closes the connection.

    A supervisor that sends no line in time is killed.
    """
    supervisor = _peer(connection)
    silent_checks = 0  # A clock would also count the time of a pause.
    checks_per_ping = PING_SECONDS // CHECK_SECONDS
    answered = stopped = False
    unfinished = b""
    connection.settimeout(CHECK_SECONDS)
    while True:
        try:
            data = connection.recv(65536)
        except TimeoutError:
            stopped_before, stopped = stopped, _is_stopped(supervisor)
            silent_checks += 1
            if not answered and silent_checks * CHECK_SECONDS >= FIRST_ANSWER_SECONDS:
                _send_signal(supervisor, signal.SIGKILL)
            elif stopped and stopped_before:
                _send_signal(supervisor, signal.SIGCONT)
            if answered and silent_checks % checks_per_ping == 0:
                yield b'{"event": "ping"}'
            continue
        if not data:
            return
        answered = True
        *lines, unfinished = (unfinished + data).split(b"\n")
        yield from lines


def _peer(connection: socket.socket) -> int:
    """Return the PID of the supervisor at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _is_stopped(pid: int) -> bool:
    """Return whether a process is stopped. A pause stops all of them briefly; a signal does so for longer."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    """Return the state of a process (proc(5), `stat`); "X" if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def run_in_session(paths: Paths, command: "list[str]") -> None:
    """Replace this process by a program, as root, in the session's mount namespace.

    Raises:
        RequestRejectedError: no supervisor came up in time.
        OSError: the namespace or the program could not be entered.
    """
    from managed_session_worker.session_namespace import join_namespace  # noqa: PLC0415 - rarely needed

    with connect(paths) as connection:
        join_namespace(_peer(connection))
    os.execvp(command[0], command)  # noqa: S606


def leave(paths: Paths) -> None:
    """End the session's supervisor with all that it has started, and remove the session's folders.

    A session that has none is left already. If its supervisor has died, another one is started, because that
    finds and kills what is left.

    Raises:
        RequestRejectedError: a process survived, or the folders could not be removed. It can be repeated.
    """
    if not any(os.path.lexists(folder) for folder in paths.folders):
        return
    from managed_session_worker import session_removal  # noqa: PLC0415 - rarely needed

    for _ in range(LEAVE_ATTEMPTS):
        try:
            with connect(paths) as connection:
                supervisor = _peer(connection)
                namespace = session_removal.namespace_of_supervisor(paths, supervisor)
        except RequestRejectedError as rejection:
            if rejection.code is not RefusalCode.SHARING_UNSUPPORTED:
                raise
            break  # It has never run anything.
        _send_signal(supervisor, signal.SIGTERM)
        _send_signal(supervisor, signal.SIGCONT)
        deadline = time.monotonic() + LEAVE_SECONDS
        while (ended := _state(supervisor) in "XZ") or time.monotonic() < deadline:
            if ended and session_removal.kill_in_namespace(namespace):
                session_removal.remove(paths)
                return
            time.sleep(0.02)
        _send_signal(supervisor, signal.SIGKILL)
    else:
        raise RequestRejectedError(RefusalCode.START_FAILED, "the session's processes survived SIGKILL")
    session_removal.remove(paths)


def print_event(event: Event) -> None:
    """Print one event as one line."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    paths, arguments = _place(arguments)
    claim = arguments[1] if len(arguments) > 1 else None
    epoch = (
        int(arguments[2])
        if arguments[:1] == ["stop"] and arguments[2:3] and arguments[2].isdecimal()
        else None
    )
    try:
        if paths.session and arguments == ["leave"]:
            leave(paths)
            print_event({"event": "left", "session": paths.session})
            return 0
        if paths.session and arguments[:1] == ["run"] and claim:
            run_in_session(paths, arguments[1:])
        request = _request(paths, arguments, epoch)
        if request is None:
            sys.stderr.write(USAGE)
            return 2
        return exchange(paths, request)
    except RequestRejectedError as rejection:
        print_event(refused(rejection, epoch=epoch, claim=claim))
        return 1
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            message = f"supervisorctl failed: {error.strerror or type(error).__name__}"
            start_failed = RequestRejectedError(RefusalCode.START_FAILED, message)
            print_event(refused(start_failed, epoch=epoch, claim=claim))
            return 1
        # The operator's stream was cut. The worker goes on; there is nobody to report to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def _place(arguments: list[str]) -> "tuple[Paths, list[str]]":
    """Return whose supervisor is meant, and the other arguments."""
    paths = Paths.from_environment()
    match arguments:
        case ["session", key, *rest] if SESSION_KEY.fullmatch(key):
            return paths.of_session(key), rest
    return paths, arguments


def _request(paths: Paths, arguments: list[str], epoch: int | None) -> Event | None:
    """Return the request of a command; None if there is no such command.

    Raises:
        RequestRejectedError: the request in the inbox cannot be used, or others could change what root runs.
    """
    match arguments:
        case ["start", claim]:
            request = take_request(paths, claim)
            check_permissions(paths)
            return request
        case ["watch", claim]:
            _check_entered(paths)
            return _watch_request(claim)
        case ["stop", claim, _] if epoch is not None:
            _check_entered(paths)
            return {"command": "stop", "claim": claim, "epoch": epoch}
        case ["status"]:
            return {"command": "status"}
        case ["enter"] if paths.session:
            return {"command": "status"}
    return None


def _check_entered(paths: Paths) -> None:
    """Reject a request about a worker of a session that has never been here, or has left for good."""
    if not os.path.exists(paths.run):
        raise RequestRejectedError(RefusalCode.UNKNOWN_CLAIM, "this session is not in the sandbox")


def _watch_request(claim: str) -> Event:
    request: Event = {"command": "watch", "claim": claim}
    leader = os.environ.get(EPOCH_VARIABLE, "")
    if leader.isdecimal():
        request["epoch"] = int(leader)
    if os.environ.get(RESUMED_VARIABLE) == "yes":
        request["resumed"] = True
    return request


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
