"""The local system's own calls to E2B: the worker template, and what is left of an installation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from e2b import AsyncSandbox, BuildException, SandboxException, SandboxQuery, SandboxState
from e2b.exceptions import AuthenticationException, ServiceBusyException
from managed_session_api.names import METADATA_INSTALLATION
from managed_session_worker.template import build_template, template_exists, template_name

from managed_session_local.errors import TemplateError


async def ensure_template(name: str | None, **options: Any) -> bool:
    """Build the worker template unless it exists; returns whether it was built.

    Args:
        name: `NAME:TAG`; by default this version's.
        options: E2B's API parameters.

    Raises:
        TemplateError: E2B could not be asked, refused, or the build failed.
    """
    name = name or template_name()
    with _explained(name):
        if await template_exists(name, **options):
            return False
        await build_template(name=name, **options)
    return True


async def build_with_log(name: str | None, on_log: Callable[[str], None]) -> str:
    """Build the worker template with E2B's own environment variables; returns what was built, for a person.

    Raises:
        TemplateError: as `ensure_template`.
    """
    name = name or template_name()
    with _explained(name):
        built = await build_template(name=name, on_log=on_log)
    return f"{name} is template {built.template_id}, build {built.build_id}"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationException as error:
        raise TemplateError(f"E2B refused E2B_API_KEY: {error}. Check the key and its rights.") from error
    except (SandboxException, BuildException, ServiceBusyException) as error:
        raise TemplateError(f"E2B did not build the worker template {name}: {error}") from error
    except httpx.HTTPError as error:
        raise TemplateError(
            f"E2B cannot be reached for the worker template {name}: {type(error).__name__} {error}. "
            "Check the network, and E2B_API_URL or E2B_DOMAIN if you set them."
        ) from error


async def kill_sandboxes(installation: str, **options: Any) -> int:
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
