"""The supervisor of one session in a shared sandbox: forked from the sandbox's own, which is warm.

It has a mount namespace, a lock, a socket, a state, shells and workers of its own, and does not end with the
process that forked it. If that one dies, the next one forks further sessions and leaves the living ones
alone. If a session's supervisor dies, the next `enter` starts another, which kills what it has left.
"""

import contextlib
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from managed_session_worker.agent_process import close_all_but
from managed_session_worker.neighbours import Neighbours, record_supervisor
from managed_session_worker.paths import Paths
from managed_session_worker.privileges import (
    Account,
    become_subreaper,
    forbid_memory_access,
    set_process_name,
)
from managed_session_worker.processes import signals_held
from managed_session_worker.protocol import Event
from managed_session_worker.session_namespace import make_namespace, namespace_of
from managed_session_worker.supervisor_lock import take_lock
from managed_session_worker.supervisor_socket import SupervisorSocket
from managed_session_worker.wire import SESSION_KEY, RefusalCode, RequestRejectedError
from managed_session_worker.worker_manager import WorkerManager
from managed_session_worker.workspace import give_to, keep_reserve, make_directories

PROCESS_NAME = "supervisor"

logger = logging.getLogger("managed_session_worker.supervisor")


def enter(paths: Paths, account: Account, key: Any) -> Event:
    """Start the supervisor of the session `key`, unless one lives. It answers on its own socket soon.

    If it cannot serve, it says why in the session's file `refusal`.

    Raises:
        RequestRejectedError: the key is no session's, or no process could be started.
    """
    if not isinstance(key, str) or not SESSION_KEY.fullmatch(key):
        raise RequestRejectedError(RefusalCode.BAD_REQUEST, f"session must match {SESSION_KEY.pattern}")
    session = paths.of_session(key)
    try:
        make_directories(session)
        if (lock := take_lock(session)) is None:
            return {"event": "status", "session": key}
        os.close(lock)
        Path(session.refusal).unlink(missing_ok=True)
        # Objects of this process must never be finalized in the other, where their descriptors are closed.
        gc.freeze()
        with signals_held():
            if os.fork() == 0:
                _run(session, account)
    except OSError as error:
        message = f"the session's supervisor could not be started: {error}"
        raise RequestRejectedError(RefusalCode.START_FAILED, message) from error
    return {"event": "status", "session": key}


def refuse_enter(_key: Any) -> Event:
    """Answer `enter` where it was sent to a session's own supervisor."""
    raise RequestRejectedError(RefusalCode.BAD_REQUEST, "only the sandbox's own supervisor starts sessions")


def _run(paths: Paths, account: Account) -> NoReturn:
    """Serve the session in this freshly forked process, and end the process."""
    status = 1
    try:
        _forget_inheritance(paths)
        _serve(paths, account)
        status = 0
    except BaseException:
        logger.exception("the session's supervisor failed")
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def _forget_inheritance(paths: Paths) -> None:
    """Give up signals and descriptors of the sandbox's supervisor. Its lock would be held otherwise."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    close_all_but({0, 1, 2})
    log = os.open(
        paths.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    set_process_name(PROCESS_NAME)


def _serve(paths: Paths, account: Account) -> None:
    # The descriptor stays open, and so the lock is held, as long as this process lives.
    if take_lock(paths) is None:
        logger.info("another supervisor serves this session already")
        return
    record_supervisor(paths)
    become_subreaper()
    forbid_memory_access()
    outer = namespace_of("self")
    try:
        make_namespace(paths)
        give_to(account, paths)
    except OSError as error:
        logger.exception("the session cannot be served")
        Path(paths.refusal).write_text(f"{RefusalCode.SHARING_UNSUPPORTED}\n{error.strerror or error}")
        return
    keep_reserve(paths)
    manager = WorkerManager(paths, account, Neighbours(paths, outer), refuse_enter)
    manager.recover()
    logger.info("session %s: workers run as %s (uid %d)", paths.session, account.name, account.uid)
    SupervisorSocket(paths, manager).run()
