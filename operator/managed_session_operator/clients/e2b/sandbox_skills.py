"""Lists the skills in a sandbox, and uploads and unpacks their archives.

An archive is uploaded in parts into a folder that only root may change, so that the agent cannot redirect our
writes with links. The agent's own user then unpacks it (`unpack_skills`).
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources

import e2b
from managed_session_api.conditions import Reason
from managed_session_worker.paths import AS_AGENT

from managed_session_operator.clients.e2b.handle import paths_of, sdk_sandbox
from managed_session_operator.clients.e2b.sandbox_commands import USER, not_shared, run_to_end
from managed_session_operator.clients.e2b.sandboxes import Sandboxes
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.skills import Bounds, Installed, Upload

logger = logging.getLogger(__name__)

_UNPACK_SECONDS = 60
"""Timeout for one archive. Unpacking the same archive twice at once does no harm."""
_ROUND_TRIP_SECONDS = 10
_LONGEST_REASON = 200


class SandboxSkills:
    """The skills of a connected sandbox.

    Args:
        sandboxes: fences calls and translates the SDK's errors.
        sandbox: the sandbox.
    """

    def __init__(self, sandboxes: Sandboxes, sandbox: SandboxHandle) -> None:
        self._sandboxes = sandboxes
        self._handle = sandbox
        self._sandbox = sdk_sandbox(sandbox)
        self._paths = paths_of(sandbox)

    async def installed(self) -> dict[str, Installed]:
        """Return the installed skills by ID, from the record in the sandbox, which snapshots include."""
        async with self._sandboxes.data_plane("skills read"):
            try:
                text = await self._sandbox.files.read(self._paths.skill_record, user=USER)
            except e2b.FileNotFoundException:
                return {}
        try:
            return {
                key: Installed(entry["version"], entry["directory"])
                for key, entry in json.loads(text).items()
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.warning("cannot read the record of skills", extra={"sandbox": self._sandbox.sandbox_id})
            return {}

    async def record(self, installed: Mapping[str, Installed]) -> None:
        """Write the record of the installed skills."""
        text = json.dumps(
            {
                key: {"version": each.version_id, "directory": each.directory}
                for key, each in installed.items()
            }
        )
        async with self._sandboxes.data_plane("skills record"):
            await self._sandbox.files.write(self._paths.skill_record, text, user=USER, use_octet_stream=True)

    async def clear(self) -> None:
        """Delete the parts of interrupted uploads."""
        async with self._sandboxes.data_plane("skill parts"):
            try:
                await self._sandbox.files.remove(self._paths.skill_parts, user=USER)
            except e2b.FileNotFoundException:
                return

    async def add(self, upload: Upload, chunk: bytes) -> None:
        """Upload the next part of an archive.

        It is a plain body with its path in the query, because the sandbox does not decode file names in
        forms.
        """
        path = f"{self._paths.skill_parts}/{upload.folder}/{upload.parts:06d}"
        async with self._sandboxes.data_plane("skill upload"):
            await self._sandbox.files.write(path, chunk, user=USER, use_octet_stream=True)
        upload.parts += 1

    async def unpack(
        self, uploads: Sequence[Upload], bounds: Bounds, remove: Sequence[str] = ()
    ) -> dict[str, str]:
        """Unpack the uploaded archives, replace skills of the same name, and delete those in `remove`.

        Returns:
            Why an archive was rejected, by its key.
        """
        request = {
            "root": self._paths.skills,
            "remove": list(remove),
            "maxBytes": bounds.most_bytes,
            "maxFiles": bounds.most_files,
            "seconds": _UNPACK_SECONDS,
            "skills": [
                {
                    "key": each.key,
                    "directory": each.directory,
                    "parts": f"{self._paths.skill_parts}/{each.folder}",
                    "replaces": each.replaces,
                }
                for each in uploads
            ],
        }
        script = resources.files(__package__).joinpath("unpack_skills.py").read_text()
        folders = " ".join(f"{self._paths.skill_parts}/{each.folder}" for each in uploads)
        before, after = (f"/bin/chmod -R a+rX {folders};", f"/bin/rm -rf {folders};") if folders else ("", "")
        command = (
            f"{AS_AGENT}; {self._paths.find_python}; cd /; {before} "
            f"$as $p -I -S -c {shlex.quote(script)} {shlex.quote(json.dumps(request))}; "
            f"code=$?; {after} exit $code"
        )
        seconds = _UNPACK_SECONDS * max(1, len(uploads)) + _ROUND_TRIP_SECONDS
        inside = self._paths.inside(command)
        result = await run_to_end(self._sandboxes, self._handle, "skills unpack", inside, seconds)
        if (error := not_shared(self._handle, result.stderr)) is not None:
            raise error
        try:
            refused: dict[str, str] = json.loads(result.stdout.strip().splitlines()[-1])["refused"]
            return {str(key): str(why)[:_LONGEST_REASON] for key, why in refused.items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            complaint = result.stderr.strip()[-_LONGEST_REASON:] or "no reason given"
            raise OperationError(
                ErrorKind.TRANSIENT,
                Reason.SANDBOX_UNREACHABLE,
                "The sandbox did not report whether its skills were unpacked "
                f"(exit status {result.exit_code}: {complaint})",
            ) from None
