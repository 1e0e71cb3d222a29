"""The forked worker process: serves one claim with Anthropic's own worker and reports to the supervisor."""

import gc
import json
import os
import sys
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import urlsplit

from managed_session_worker.agent_process import become_agent_process, marker
from managed_session_worker.paths import Paths
from managed_session_worker.privileges import Account
from managed_session_worker.protocol import ExitReason, StartRequest
from managed_session_worker.work_item_runner import Reporter, run_work_item, session_token
from managed_session_worker.worker_log import RedactingFormatter, log_to_standard_error, logger
from managed_session_worker.workspace import prepare_as_agent

PROCESS_NAME = "session-worker"


class PipeReporter(Reporter):
    """Writes each report as one JSON line into the pipe to the supervisor."""

    def __init__(self, descriptor: int, formatter: RedactingFormatter) -> None:
        self._descriptor = descriptor
        self._formatter = formatter

    def report(self, kind: str, **content: object) -> None:
        """Send one report. If the supervisor has died, the kernel kills this process too."""
        line = self._formatter.redact(json.dumps({"report": kind, **content})).encode() + b"\n"
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
    request: StartRequest,
    *,
    paths: Paths,
    account: Account,
    report_to: int,
    shells: int,
    log_to: int,
    supervisor: int,
) -> NoReturn:
    """Serve `request` in this freshly forked process, and end the process.

    Args:
        request: What to serve.
        paths: The sandbox's paths.
        account: The account to switch to.
        report_to: Descriptor of the pipe to the supervisor.
        shells: Descriptor of the socket on which the supervisor sends connections to the shell host.
        log_to: Descriptor of the log file.
        supervisor: PID of the parent; this process must not outlive it.
    """
    formatter = RedactingFormatter(_secrets(request))
    mark = marker(paths)
    reporter = PipeReporter(report_to, formatter)
    try:
        _become_worker(
            request,
            paths,
            account,
            mark,
            report_to=report_to,
            shells=shells,
            log_to=log_to,
            supervisor=supervisor,
        )
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
        reason, message = run_work_item(request, paths, reporter, shells)
    except BaseException as error:  # noqa: BLE001 - as above
        logger.exception("worker failed")
        reporter.end(ExitReason.ERROR, f"{type(error).__name__}: {error}")
    reporter.end(reason, message)


def _become_worker(
    request: StartRequest,
    paths: Paths,
    account: Account,
    mark: str,
    *,
    report_to: int,
    shells: int,
    log_to: int,
    supervisor: int,
) -> None:
    become_agent_process(
        PROCESS_NAME,
        account,
        workdir=paths.workdir,
        log_to=log_to,
        keep=(report_to, shells),
        supervisor=supervisor,
        seed=request.claim.encode(),
    )
    _set_environment(request.environment, paths, account, mark)
    gc.enable()


def _set_environment(extra: Mapping[str, str], paths: Paths, account: Account, mark: str) -> None:
    """Set the variables of the template and the sandbox for the agent's commands, without the SDK's."""
    combined = {**os.environ, **extra}
    for name in list(combined):
        if name.startswith("ANTHROPIC_"):
            del combined[name]
    combined.update(HOME=account.home, USER=account.name, LOGNAME=account.name, PWD=paths.workdir)
    combined.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    name, _, value = mark.partition("=")
    combined[name] = value
    os.environ.clear()
    os.environ.update(combined)


def _secrets(request: StartRequest) -> list[str | None]:
    credential = (urlsplit(request.proxy).password if request.proxy else None) or None
    return [request.work_secret, request.environment_key, session_token(request), credential]
