"""The E2B template with the supervisor: `python -m managed_session_worker.template build`.

A build runs the start command and takes a snapshot of the running machine. So every sandbox begins with a
supervisor that has already imported `anthropic` (E2B: "Template", start and ready commands).
"""

import asyncio
import re
import time
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2b import AsyncTemplate, BuildException, NotFoundException, SandboxException
from e2b.exceptions import ServiceBusyException

from managed_session_worker.paths import Paths

if TYPE_CHECKING:
    from e2b.template.main import TemplateClass

TEMPLATE_NAME = "managed-session-worker"
PYTHON_VERSION = "3.12"
DEFAULT_TAG = "default"
OTHER_BUILD_SECONDS = 1200.0
"""How long to wait for another build of the same template."""
CHECK_SECONDS = 1.0
FORBIDDEN, NOT_FOUND = 403, 404
_SUPERSEDED = re.compile(r"was cancell?ed|superseded|not in waiting state")
"""E2B's errors for a build that another one has replaced (e2b-dev/infra at 54693ff: `builderrors/errors.go`,
`template/register_build.go`, `handlers/template_start_build_v2.go`)."""
PACKAGE = Path(__file__).parent.parent
LIBRARY = Paths().package
START_COMMAND = Paths().exec_python(f"{LIBRARY}/supervisor.py")
"""Uses the image's Python if there is no other: a builder that only records the steps has no copy."""
RUNTIME_FILES = sorted(path.name for path in PACKAGE.glob("*.py"))
"""The files for the sandbox. This subpackage is for builds only; the operator sends `preparation` itself."""
IGNORED = (f"{PACKAGE.name}/template", f"{PACKAGE.name}/preparation", "**/__pycache__")
PACKAGES = ("curl", "fuse3", "git", "jq", "procps", "ripgrep", "s3fs", "unzip")
"""What agents use most; the SDK's grep tool uses ripgrep if it is installed. s3fs mounts buckets."""


def project_version() -> str:
    """Return the version of this project, which is also the tag of its template."""
    try:
        return metadata.version("managed-sessions")
    except metadata.PackageNotFoundError:
        # A source tree that is on the import path and was never installed.
        project = tomllib.loads((PACKAGE.parent.parent / "pyproject.toml").read_text())
        return str(project["project"]["version"])


def template_name() -> str:
    """Return the template's name with this project's version as its tag."""
    return f"{TEMPLATE_NAME}:{project_version()}"


def worker_template() -> "TemplateClass":
    """Return the build steps. The sandbox gets the `anthropic` version that is installed here."""
    paths = Paths()
    # A single COPY, because each one makes a layer, with a resume, a pause and an upload.
    return (
        AsyncTemplate(file_context_path=PACKAGE.parent, file_ignore_patterns=list(IGNORED))
        .from_python_image(PYTHON_VERSION)
        .set_user("root")
        .apt_install(list(PACKAGES))
        .pip_install([f"anthropic=={metadata.version('anthropic')}"])
        .copy(PACKAGE.name, LIBRARY, user="root")
        .run_cmd(f"python3 {LIBRARY}/prepare.py")
        .set_workdir(paths.workdir)
        .set_start_cmd(START_COMMAND, f"[ -S {paths.socket} ]")
    )


async def template_exists(name: str | None = None, **options: Any) -> bool:
    """Return whether the template (by default this version's) exists, with this tag.

    Args:
        name: `NAME` or `NAME:TAG`; without a tag, the tag `default`.
        options: E2B's API parameters, such as `api_key`; by default E2B's environment variables apply.
    """
    return await build_of(name or template_name(), **options) is not None


async def build_of(name: str, **options: Any) -> str | None:
    """Return the ID of the build that `NAME[:TAG]` refers to; None if there is none.

    E2B's own `exists` ignores the tag. Another team's template, whose tags are not shown, has the build "".

    Args:
        name: of the template.
        options: E2B's API parameters.
    """
    base, tag = split_name(name)
    try:
        tags = await AsyncTemplate.get_tags(base, **options)
    except SandboxException as error:
        if error.status_code == FORBIDDEN:
            return "" if await AsyncTemplate.exists(base, **options) else None
        if error.status_code == NOT_FOUND or isinstance(error, NotFoundException):
            return None
        raise
    return next((each.build_id for each in tags if each.tag == tag), None)


def split_name(name: str) -> tuple[str, str]:
    """Split `NAME[:TAG]` into the name and the tag, as E2B reads them."""
    base, _, tag = name.strip().lower().partition(":")
    return base, tag or DEFAULT_TAG


async def build_template(
    *,
    name: str | None = None,
    template: "TemplateClass | None" = None,
    on_log: Callable[[str], None] | None = None,
    cpu_count: int | None = None,
    memory_mb: int | None = None,
    skip_cache: bool = False,
    **options: Any,
) -> str:
    """Build the template and wait until it can be used.

    E2B cancels a build when another one of the same template starts. This function then waits for the later
    one, so two people who build the same version at once get the same template.

    Args:
        name: `NAME:TAG`; by default this version's name.
        template: What to build; by default the standard template.
        on_log: Gets each line of the build's log.
        cpu_count: Virtual processors of each sandbox; E2B's default if None.
        memory_mb: Memory of each sandbox in MiB; E2B's default if None.
        skip_cache: Repeat steps that E2B has in its cache.
        options: E2B's API parameters, such as `api_key`; by default E2B's environment variables apply.

    Returns:
        The ID of the build that the name refers to.

    Raises:
        e2b.BuildException: A step, the start command or the ready command failed.
    """

    def log(line: object) -> None:
        if on_log is not None:
            on_log(str(line))

    name = name or template_name()
    before = await _build_of(name, options)
    try:
        built = await AsyncTemplate.build(
            template or worker_template(),
            name,
            cpu_count=cpu_count,
            memory_mb=memory_mb,
            skip_cache=skip_cache,
            on_build_logs=log,
            **options,
        )
    except BuildException as error:
        if not _SUPERSEDED.search(str(error)):
            raise
        log(f"another build of {name} has replaced this one: waiting for it")
        deadline = time.monotonic() + OTHER_BUILD_SECONDS
        while (other := await _build_of(name, options)) in (None, before):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(CHECK_SECONDS)
        return str(other)
    return built.build_id


async def _build_of(name: str, options: dict[str, Any]) -> str | None:
    """Return the build that `NAME:TAG` refers to, or None while there is none or E2B does not say."""
    try:
        return await build_of(name, **options)
    except (SandboxException, ServiceBusyException):
        return None
