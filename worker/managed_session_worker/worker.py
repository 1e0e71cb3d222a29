"""The forked worker process: serves one claim with Anthropic's own worker and reports to the supervisor."""

import asyncio
import gc
import json
import os
import random
import signal
import ssl
import sys
from collections.abc import Mapping
from typing import NoReturn

from managed_session_worker.paths import Paths
from managed_session_worker.privileges import (
    Account,
    die_with_parent,
    drop_privileges,
    forbid_memory_access,
    set_memory_kill_preference,
)
from managed_session_worker.protocol import ExitReason, StartRequest
from managed_session_worker.work_item_runner import Reporter, run_work_item, session_token
from managed_session_worker.worker_log import RedactingFormatter, log_to_standard_error, logger
from managed_session_worker.workspace import prepare_as_agent

MARKER_VARIABLE = "MANAGED_SESSION_SANDBOX"
"""Marks all processes that a worker's tools start; `marker` makes the value."""


def marker(paths: Paths) -> str:
    """Return the `NAME=value` that is in the environment of every command of this sandbox only."""
    stat = os.stat(paths.run)  # noqa: PTH116 - differs even between two sandboxes with one process table
    return f"{MARKER_VARIABLE}={stat.st_dev}-{stat.st_ino}"


class PipeReporter(Reporter):
    """Writes each report as one JSON line into the pipe to the supervisor."""

    def __init__(self, descriptor: int, formatter: RedactingFormatter) -> None:
        self._descriptor = descriptor
        self._formatter = formatter

    def report(self, kind: str, **content: object) -> None:
        """Send one report. If the supervisor has died, the kernel kills this process too."""
        line = json.dumps({"report": kind, **content}).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]

    def end(self, reason: ExitReason, message: str) -> NoReturn:
        """Report the end and exit at once: no cleanup runs, nothing else is sent."""
        message = self._formatter.redact(message)
        logger.info("worker ends reason=%s message=%s", reason, message)
        self.report("ended", reason=reason, message=message)
        sys.stderr.flush()
        os._exit(1 if reason in (ExitReason.ERROR, ExitReason.START_FAILED) else 0)


def run_worker(
    request: StartRequest, *, paths: Paths, account: Account, report_to: int, log_to: int, supervisor: int
) -> NoReturn:
    """Serve `request` in this freshly forked process, and end the process.

    Args:
        request: What to serve.
        paths: The sandbox's paths.
        account: The account to switch to.
        report_to: Descriptor of the pipe to the supervisor.
        log_to: Descriptor of the log file.
        supervisor: PID of the parent; this process must not outlive it.
    """
    formatter = RedactingFormatter(_secrets(request))
    reporter = PipeReporter(report_to, formatter)
    try:
        _become_worker(request, paths, account, report_to, log_to, supervisor)
        log_to_standard_error(request.log_level, formatter)
        leftovers = prepare_as_agent(paths, request.claim)
        if leftovers:
            logger.warning(
                "moved aside %d files of memory stores that an earlier worker left", len(leftovers)
            )
            reporter.report("unsynchronised", paths=leftovers)
    except BaseException as error:  # noqa: BLE001 - only the supervisor can report it
        reporter.end(ExitReason.START_FAILED, f"{type(error).__name__}: {error}")
    try:
        logger.info("worker starts claim=%s session_id=%s", request.claim, request.session_id)
        reason, message = run_work_item(request, paths, reporter)
    except BaseException as error:  # noqa: BLE001 - as above
        logger.exception("worker failed")
        reporter.end(ExitReason.ERROR, f"{type(error).__name__}: {error}")
    reporter.end(reason, message)


def _become_worker(
    request: StartRequest, paths: Paths, account: Account, report_to: int, log_to: int, supervisor: int
) -> None:
    gc.disable()
    asyncio.set_event_loop(None)
    os.setsid()
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log_to, 1), (log_to, 2)):
        os.dup2(source, target)
    _close_all_but({0, 1, 2, report_to})
    set_memory_kill_preference(0)
    drop_privileges(account)
    forbid_memory_access()
    die_with_parent(supervisor)
    # Two sandboxes from one snapshot have the same state of these generators; only the kernel's differs.
    seed = os.urandom(32) + request.claim.encode()
    random.seed(seed)
    ssl.RAND_add(seed, 0.0)
    os.umask(0o022)
    os.chdir(paths.workdir)
    _set_environment(request.environment, paths, account)
    gc.enable()


def _close_all_but(kept: set[int]) -> None:
    boundary = 3
    for descriptor in sorted(kept):
        if descriptor >= boundary:
            os.closerange(boundary, descriptor)
            boundary = descriptor + 1
    os.closerange(boundary, min(65536, os.sysconf("SC_OPEN_MAX")))


def _set_environment(extra: Mapping[str, str], paths: Paths, account: Account) -> None:
    """Set the variables of the template and the sandbox for the agent's commands, without the SDK's."""
    combined = {**os.environ, **extra}
    for name in list(combined):
        if name.startswith("ANTHROPIC_"):
            del combined[name]
    combined.update(HOME=account.home, USER=account.name, LOGNAME=account.name, PWD=paths.workdir)
    combined.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    name, _, value = marker(paths).partition("=")
    combined[name] = value
    os.environ.clear()
    os.environ.update(combined)


def _secrets(request: StartRequest) -> list[str | None]:
    return [request.work_secret, request.environment_key, session_token(request)]
