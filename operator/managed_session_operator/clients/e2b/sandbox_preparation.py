"""Runs a preparation inside a sandbox: sends the program and its plan, and reads the report.

The program is `managed_session_worker.preparation`, as it is installed with the operator. It travels in the
command, as an archive that Python imports from memory; the plan may hold secrets, and travels as a file that
only root can read and that the program removes first.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import shlex
import uuid
import zipfile
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from managed_session_api.conditions import Reason

from managed_session_operator.clients.e2b.handle import paths_of, sdk_sandbox
from managed_session_operator.clients.e2b.open_calls import OpenCalls
from managed_session_operator.clients.e2b.sandbox_commands import USER, free_reserve, run_to_end
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.preparation import Report, StepFailure
from managed_session_operator.domain.session_handle import session_key_of

logger = logging.getLogger(__name__)

_PACKAGE = "managed_session_worker"
_MODULES = ("__init__.py", "paths.py", "privileges.py", "processes.py", "session_namespace.py")
_ROUND_TRIP_SECONDS = 30.0
_LONGEST_TEXT = 2000
_START = (
    "import base64,os,sys;f=os.memfd_create('preparation');os.write(f,base64.b64decode(sys.argv[1]));"
    "sys.path.insert(0,'/proc/self/fd/%d'%f);from managed_session_worker.preparation import run;"
    "run.main(sys.argv[2],session=''.join(sys.argv[3:]))"
)


@cache
def _archive() -> str:
    """Return the program as a zip archive, in base64. A command's argument may have 128 KiB."""
    buffer, package = io.BytesIO(), resources.files(_PACKAGE)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _MODULES:
            archive.writestr(f"{_PACKAGE}/{name}", package.joinpath(name).read_bytes())
        for module in sorted(package.joinpath("preparation").iterdir(), key=lambda each: each.name):
            if module.name.endswith(".py"):
                archive.writestr(f"{_PACKAGE}/preparation/{module.name}", module.read_bytes())
    return base64.b64encode(buffer.getvalue()).decode()


class SandboxPreparations:
    """Preparations of connected sandboxes. One may outlast the step that waits for it.

    Args:
        sandboxes: fences calls and translates the SDK's errors.
        patience: seconds that a step waits for a preparation.
    """

    def __init__(self, sandboxes: Sandboxes, patience: float) -> None:
        self._sandboxes = sandboxes
        self._patience = patience
        self._open = OpenCalls()

    async def prepare(self, sandbox: SandboxHandle, plan: Mapping[str, Any], *, purpose: str = "") -> Report:
        """Run the plan, or join the preparation that runs already, and return its report.

        Raises:
            OperationError: the sandbox does not answer, or did not report.
            UnderWayError: it has not ended yet.
        """
        return await self._open.join(
            f"{sandbox.sandbox_id} {session_key_of(sandbox) or ''} {purpose}",
            "preparation",
            lambda: self._run(sandbox, plan),
            self._patience,
        )

    async def _run(self, handle: SandboxHandle, plan: Mapping[str, Any]) -> Report:
        paths = paths_of(handle)
        file = paths.plan(uuid.uuid4().hex)
        try:
            await self._send(handle, file, plan)
        except OperationError as error:
            if error.reason is not Reason.SANDBOX_DISK_FULL:
                raise
            await free_reserve(self._sandboxes, handle)
            await self._send(handle, file, plan)
        # A preparation that an operator left running is waited for once, inside the sandbox.
        seconds = 2 * float(plan["seconds"]) + _ROUND_TRIP_SECONDS
        command = (
            f"{paths.find_python}; cd /; exec $p -I -S -c {shlex.quote(_START)} {_archive()} "
            f"{shlex.quote(file)} {paths.session}"
        )
        result = await run_to_end(self._sandboxes, handle, "preparation", command, seconds)
        try:
            report = json.loads(result.stdout.strip().splitlines()[-1])
            failed = report["failed"]
            return Report(
                _failure(failed) if failed is not None else None,
                tuple(_failure(each) for each in report["warnings"]),
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            logger.warning(
                "a preparation did not report",
                extra={"sandbox": handle.sandbox_id, "status": result.exit_code},
            )
            raise OperationError(
                ErrorKind.TRANSIENT,
                Reason.SANDBOX_UNREACHABLE,
                f"The sandbox did not report how its preparation ended (exit status {result.exit_code})",
            ) from None

    async def _send(self, handle: SandboxHandle, file: str, plan: Mapping[str, Any]) -> None:
        async with self._sandboxes.data_plane("preparation plan"):
            await sdk_sandbox(handle).files.write(file, json.dumps(plan), user=USER, use_octet_stream=True)


def _failure(found: Mapping[str, Any]) -> StepFailure:
    def text(key: str) -> str:
        return str(found.get(key) or "")[-_LONGEST_TEXT:]

    return StepFailure(text("section"), text("step"), text("why"), text("output"))
