"""The skills of a session's agent, written into its sandbox before the worker starts.

The skills API takes the environment key only, which a sandbox never holds; so the operator fetches them.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from pathlib import Path

import e2b
from e2b.sandbox.filesystem.filesystem import WriteEntry
from managed_session_api.resource import ManagedSession

from managed_session_operator.clients.worker_runs import WORKDIR
from managed_session_operator.context import Context
from managed_session_operator.failures import Failure, Kind, NotLeadingError

logger = logging.getLogger(__name__)

_PATIENCE = 3
"""Failed starts in a row after which a turn goes on without skills that can't be had."""


async def write_skills(context: Context, resource: ManagedSession, sandbox: e2b.AsyncSandbox) -> None:
    """Write `<workdir>/skills/<name>/` for each skill, once per sandbox and process.

    What fails in passing is tried again with the worker's start; a skill that can't be had is logged and left
    out, and the turn goes on without it.
    """
    memory = context.memory(resource.metadata.name)
    if memory.skills_written == sandbox.sandbox_id:
        return
    try:
        if memory.session is None:
            memory.session = await context.queue.session(resource.spec.session_id)
        if memory.session is not None and memory.session.has_skills:
            with tempfile.TemporaryDirectory(prefix="skills-") as folder:
                await context.queue.download_skills(resource.spec.session_id, Path(folder))
                entries = await asyncio.to_thread(_entries, Path(folder))
            if entries:
                async with context.sandboxes.data_plane("skills"):
                    await sandbox.files.write_files(entries, user="root")
    except NotLeadingError:
        raise
    except Failure as failure:
        if failure.kind in (Kind.RETRY, Kind.QUOTA) and memory.failures < _PATIENCE:
            raise
        logger.warning(
            "skills not written", extra={"session": resource.spec.session_id, "cause": str(failure)}
        )
        return
    except Exception as error:  # noqa: BLE001 - an archive that can't be read must not stop the turn
        cause = type(error).__name__
        logger.warning("skills not written", extra={"session": resource.spec.session_id, "cause": cause})
        return
    memory.skills_written = sandbox.sandbox_id


def _entries(folder: Path) -> list[WriteEntry]:
    """All files below `folder`, addressed below the sandbox's workdir."""
    return [
        WriteEntry(path=f"{WORKDIR}/{path.relative_to(folder)}", data=path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
