"""Builds the worker template in E2B, with errors that say what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from e2b import BuildException, SandboxException
from e2b.exceptions import AuthenticationException, ServiceBusyException
from managed_session_worker.template import build_template, template_exists, template_name
from managed_session_worker.template.base import Customisation

from managed_session_cli.errors import TemplateError
from managed_session_cli.python_archives import parse_archive
from managed_session_cli.template_build import Request, build_from


async def ensure_template(name: str | None, **options: Any) -> bool:
    """Build the worker template unless it exists, and return whether it was built.

    Args:
        name: `NAME:TAG`; by default this version's.
        options: E2B's API parameters.

    Raises:
        TemplateError: E2B rejected a call or did not answer, or the build failed.
    """
    name = name or template_name()
    with _explained(name):
        if await template_exists(name, **options):
            return False
        await build_template(name=name, **options)
    return True


@dataclass(frozen=True)
class Size:
    """Of each sandbox; E2B's defaults where None."""

    cpu_count: int | None = None
    memory_mb: int | None = None


async def build_with_log(name: str | None, size: Size, on_log: Callable[[str], None]) -> str:
    """Build the worker template with E2B's own environment variables, and return what was built, in words.

    Raises:
        TemplateError: as `ensure_template`.
    """
    name = name or template_name()
    with _explained(name):
        build = await build_template(name=name, on_log=on_log, **asdict(size))
    return f"{name} is build {build}"


def custom_request(
    source: str,
    name: str | None,
    size: Size,
    packages: tuple[str, ...],
    commands: tuple[str, ...],
    archive: str | None,
    *,
    rebuild: bool,
    registry: dict[str, str] | None,
) -> Request:
    """Make a request from the command's options.

    Raises:
        TemplateError: the archive's address is malformed.
    """
    customisation = Customisation(packages, commands, size.cpu_count, size.memory_mb)
    python = parse_archive(archive) if archive else None
    return Request(source, customisation, name, python, rebuild, registry)


async def build_custom(request: Request, on_log: Callable[[str], None]) -> list[str]:
    """Build from the user's base with E2B's own environment variables, and return the result in lines.

    Raises:
        TemplateError: as `ensure_template`, or the base does not serve.
    """
    with _explained(request.name or f"from {request.source}"):
        built = await build_from(request, on_log)
    if built.found is None:
        return [f"{built.name} exists already: build {built.build_id} (--rebuild builds it again)"]
    checks = [f"  {what}: {found}" for what, found in built.found.items()]
    return [f"{built.name} is build {built.build_id}", *checks]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationException as error:
        raise TemplateError(
            f"E2B rejected E2B_API_KEY: {error}. Check the key and its permissions."
        ) from error
    except (SandboxException, BuildException, ServiceBusyException) as error:
        raise TemplateError(f"E2B did not build the worker template {name}: {error}") from error
    except httpx.HTTPError as error:
        raise TemplateError(
            f"E2B cannot be reached for the worker template {name}: {type(error).__name__} {error}. "
            "Check the network, and E2B_API_URL or E2B_DOMAIN if you set them."
        ) from error
