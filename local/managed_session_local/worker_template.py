"""The local system's own calls to E2B: the worker template, and what is left of an installation."""

from typing import Any

from e2b import AsyncSandbox, SandboxQuery, SandboxState
from managed_session_api.names import METADATA_INSTALLATION
from managed_session_worker.template import build_template, template_exists, template_name


async def ensure_template(name: str | None, **options: Any) -> bool:  # noqa: ANN401 - E2B's API parameters
    """Build the worker template unless it exists; returns whether it was built.

    Args:
        name: `NAME:TAG`; by default this version's.
        options: E2B's API parameters.

    Raises:
        e2b.SandboxException: E2B refused (wrong key, no rights, a limit).
        e2b.BuildException: the build failed.
    """
    name = name or template_name()
    if await template_exists(name, **options):
        return False
    await build_template(name=name, **options)
    return True


async def kill_sandboxes(installation: str, **options: Any) -> int:  # noqa: ANN401 - E2B's API parameters
    """Kill every sandbox of an installation whose operator has stopped; returns how many there were."""
    query = SandboxQuery(
        metadata={METADATA_INSTALLATION: installation}, state=[SandboxState.RUNNING, SandboxState.PAUSED]
    )
    pages = AsyncSandbox.list(query=query, **options)
    found = []
    while pages.has_next:
        found += await pages.next_items()
    for sandbox in found:
        await AsyncSandbox.kill(sandbox.sandbox_id, **options)
    return len(found)
