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

from e2b import AsyncTemplate, BuildException, NotFoundException, SandboxException, TemplateException

from managed_session_worker.paths import Paths

if TYPE_CHECKING:
    from e2b.template.main import TemplateClass

TEMPLATE_NAME = "managed-session-worker"
PYTHON_VERSION = "3.12"
DEFAULT_TAG = "default"
OTHER_BUILD_SECONDS = 1200.0
"""How long to wait for another build of the same template."""
CHECK_SECONDS = 1.0
_SUPERSEDED = re.compile(r"was cancell?ed|superseded|not in waiting state")
"""E2B's errors for a build that another one has replaced (e2b-dev/infra at 54693ff: `builderrors/errors.go`,
`template/register_build.go`, `handlers/template_start_build_v2.go`)."""
PACKAGE = Path(__file__).parent.parent
LIBRARY = Paths().package
START_COMMAND = Paths().exec_python(f"{LIBRARY}/supervisor.py")
"""Uses the image's Python if there is no other: a builder that only records the steps has no copy."""
RUNTIME_FILES = sorted(path.name for path in PACKAGE.glob("*.py"))
"""The files for the sandbox. This subpackage is for builds only and is left out."""
PACKAGES = ("curl", "git", "jq", "procps", "ripgrep", "unzip")
"""What agents use most; the SDK's grep tool uses ripgrep if it is installed."""


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
    ignored = [f"{PACKAGE.name}/template", "**/__pycache__"]
    return (
        AsyncTemplate(file_context_path=PACKAGE.parent, file_ignore_patterns=ignored)
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
    """Return whether the template (by default this version's) exists.

    Args:
        name: `NAME` or `NAME:TAG`.
        options: E2B's API parameters, such as `api_key`; by default E2B's environment variables apply.
    """
    return await AsyncTemplate.exists(name or template_name(), **options)


async def build_template(
    *,
    name: str | None = None,
    on_log: Callable[[str], None] | None = None,
    cpu_count: int | None = None,
    memory_mb: int | None = None,
    **options: Any,
) -> str:
    """Build the template and wait until it can be used.

    E2B cancels a build when another one of the same template starts. This function then waits for the later
    one, so two people who build the same version at once get the same template.

    Args:
        name: `NAME:TAG`; by default this version's name.
        on_log: Gets each line of the build's log.
        cpu_count: Virtual processors of each sandbox; E2B's default if None.
        memory_mb: Memory of each sandbox in MiB; E2B's default if None.
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
            worker_template(),
            name,
            cpu_count=cpu_count,
            memory_mb=memory_mb,
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
    """Return the build that `NAME:TAG` refers to, or None while there is none."""
    base, _, tag = name.partition(":")
    try:
        tags = await AsyncTemplate.get_tags(base, **options)
    except (SandboxException, NotFoundException, TemplateException):
        return None
    return next((each.build_id for each in tags if each.tag == (tag or DEFAULT_TAG)), None)
