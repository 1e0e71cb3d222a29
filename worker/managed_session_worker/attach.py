"""The operator's end inside the sandbox: hands a request to the supervisor and copies its events to stdout.

    python3 -I -S attach.py start CLAIM        (the request itself waits in the inbox)
    python3 -I -S attach.py watch CLAIM        (MANAGED_SESSION_EPOCH: the least epoch to be heard)
    python3 -I -S attach.py stop CLAIM EPOCH
    python3 -I -S attach.py status

Standard library only, and little of it: this starts once per turn, and pathlib alone would cost a third more.
A supervisor that is not there (cold boot, out of memory) is started again, detached; one that was stopped is
continued, and one that does not answer is killed, so that its successor answers.
Exit status: 0 after `exited` or `status`, 1 after `refused`, 2 for wrong arguments.
"""

# ruff: noqa: PTH100, PTH103, PTH108, PTH118, PTH119, PTH120, PTH123

import errno
import json
import os
import signal
import socket
import struct
import sys
import time

if __name__ == "__main__":  # run by path, with -I -S: nothing of ours is importable yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from managed_session_worker.paths import SOCKET_NAME, Paths, within_directory

#: How long a supervisor may take from its start to its socket (an import of `anthropic` on a cold disk).
SUPERVISOR_START_SECONDS = 60.0
#: How long the first answer may take: the supervisor may first have to kill a superseded worker.
FIRST_ANSWER_SECONDS = 30.0
#: How often a silent supervisor is looked at. Found stopped twice in a row, it is continued.
LOOK_SECONDS = 2.0
RECONNECT_ATTEMPTS = 3
FINAL_EVENTS = frozenset({"exited", "refused", "status"})
MAX_REQUEST_BYTES = 256 * 1024

Event = dict[str, object]
TYPE_CHECKING = False  # typing alone would take as long as all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator


class RefusalError(Exception):
    """The request cannot be passed on; the message says why and goes to the operator."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def take_request(paths: Paths, claim: str) -> Event:
    """Read and at once remove the request of `claim` from the inbox.

    Raises:
        RefusalError: there is no such file, or it is not one JSON object for this claim.
    """
    if os.path.basename(claim) != claim or claim.startswith("."):
        raise RefusalError("BadRequest", f"{claim!r} is not the name of a claim")
    path = os.path.join(paths.inbox, f"{claim}.json")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise RefusalError(
            "BadRequest", f"no request in the inbox for this claim: {error.strerror}"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        os.unlink(path)
        data = file.read(MAX_REQUEST_BYTES + 1)
    if len(data) > MAX_REQUEST_BYTES:
        raise RefusalError("BadRequest", f"the request is larger than {MAX_REQUEST_BYTES} bytes")
    try:
        request = json.loads(data)
    except ValueError:
        # The decoder's message would quote the document, and with it a credential.
        raise RefusalError("BadRequest", "the request in the inbox is not JSON") from None
    if not isinstance(request, dict) or request.get("claim") != claim:
        raise RefusalError("BadRequest", "the request in the inbox is for another claim")
    request["command"] = "start"
    # Variables set when the sandbox was created reach its commands only; the agent's shell should have them.
    request["environment"] = {k: v for k, v in os.environ.items() if not k.startswith("ANTHROPIC_")}
    return request


def connect(paths: Paths) -> socket.socket:
    """A connection to the supervisor, which is started if none listens.

    Raises:
        RefusalError: no supervisor came up in time.
    """
    deadline = time.monotonic() + SUPERVISOR_START_SECONDS
    started = False
    while True:
        connection = _try_connect(paths)
        if connection is not None:
            return connection
        if not started:
            _start_supervisor(paths)
            started = True
        if time.monotonic() > deadline:
            raise RefusalError(
                "StartFailed",
                f"no supervisor listened within {SUPERVISOR_START_SECONDS:.0f} s; see {paths.supervisor_log}",
            )
        time.sleep(0.02)


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
    """Start a supervisor that outlives this process and holds none of its descriptors."""
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
            interpreter = _interpreter(paths)
            program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "supervisor.py")
            os.execv(interpreter, [interpreter, program])  # noqa: S606 - a path that the supervisor wrote
    finally:
        os._exit(0)


def _interpreter(paths: Paths) -> str:
    """The interpreter that has `anthropic`: the one that the first supervisor ran with."""
    try:
        with open(paths.interpreter) as file:
            return file.read().strip() or sys.executable
    except OSError:
        return sys.executable


def converse(paths: Paths, request: Event) -> int:
    """Send `request`, copy events to stdout until the final one, and return the exit status.

    A connection that ends early means that the supervisor died, or that it gave no answer and was killed for
    it: the claim is then watched through its successor, which knows how it ended. Events already copied are
    not copied again.
    """
    copied: set[object] = set()
    for attempt in range(RECONNECT_ATTEMPTS):
        if attempt:
            if "claim" not in request:
                break
            request = {"command": "watch", "claim": request["claim"]}
        with connect(paths) as connection:
            try:
                connection.sendall(json.dumps(request).encode() + b"\n")
                for line in answers(connection):
                    event = json.loads(line)
                    name = event.get("event")
                    if name in copied:
                        continue
                    copied.add(name)
                    write(event)
                    if name in FINAL_EVENTS:
                        return 1 if name == "refused" else 0
            except (ConnectionError, ValueError):
                pass
    raise RefusalError("StartFailed", "the supervisor ended before it answered")


def answers(connection: socket.socket) -> "Iterator[bytes]":
    """The supervisor's lines, until it or the connection ends. A supervisor that gives none is killed."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    supervisor = struct.unpack("3i", credentials)[0]
    silent_looks = 0  # and no clock, which a pause of the sandbox would run down
    answered = stopped = False
    unfinished = b""
    connection.settimeout(LOOK_SECONDS)
    while True:
        try:
            data = connection.recv(65536)
        except TimeoutError:
            stopped_before, stopped = stopped, _is_stopped(supervisor)
            silent_looks += 1
            if not answered and silent_looks * LOOK_SECONDS >= FIRST_ANSWER_SECONDS:
                _send_signal(supervisor, signal.SIGKILL)
            elif stopped and stopped_before:
                _send_signal(supervisor, signal.SIGCONT)
            continue
        if not data:
            return
        answered = True
        *lines, unfinished = (unfinished + data).split(b"\n")
        yield from lines


def _send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal. Within a pause all are; that it lasts tells one that was."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def write(event: Event) -> None:
    """One event as one line on stdout."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run one verb and return the exit status."""
    paths = Paths.from_environment()
    claim = arguments[1] if len(arguments) > 1 else ""
    epoch: int | None = None
    event: Event
    try:
        match arguments:
            case ["start", _]:
                request = take_request(paths, claim)
            case ["watch", _]:
                request = {"command": "watch", "claim": claim}
                least = os.environ.get("MANAGED_SESSION_EPOCH", "")
                if least.isdecimal():
                    request["epoch"] = int(least)
            case ["stop", _, number] if number.isdecimal():
                epoch = int(number)
                request = {"command": "stop", "claim": claim, "epoch": epoch}
            case ["status"]:
                request = {"command": "status"}
            case _:
                sys.stderr.write("usage: attach.py start CLAIM | watch CLAIM | stop CLAIM EPOCH | status\n")
                return 2
        return converse(paths, request)
    except RefusalError as refusal:
        event = {"event": "refused", "reason": refusal.reason, "message": str(refusal)}
        write({**event, "epoch": epoch, "claim": claim or None})
        return 1
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            message = f"attach failed: {error.strerror or type(error).__name__}"
            write(
                {
                    "event": "refused",
                    "reason": "StartFailed",
                    "message": message,
                    "epoch": epoch,
                    "claim": claim,
                }
            )
            return 1
        # The operator's stream was cut. The worker goes on; nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
