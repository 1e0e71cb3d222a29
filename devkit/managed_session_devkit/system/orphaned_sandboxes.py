"""Removes the sandboxes that a stopped installation has left in E2B."""

from typing import Any

from e2b import AsyncSandbox, SandboxQuery, SandboxState
from managed_session_api.names import METADATA_INSTALLATION


async def kill_sandboxes(installation: str, **options: Any) -> int:
    """Kill every sandbox of an installation whose operator has stopped. Return their number."""
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
