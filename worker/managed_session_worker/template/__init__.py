"""The E2B template that holds the supervisor: `python -m managed_session_worker.template build`.

A build runs the start command and snapshots the running machine, so every sandbox begins with a supervisor
that has `anthropic` imported already (E2B: "Template", start and ready commands).
"""

import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2b import AsyncTemplate, LogEntry

from managed_session_worker.paths import Paths
from managed_session_worker.supervisor import AGENT_ACCOUNT

if TYPE_CHECKING:
    from e2b import BuildInfo
    from e2b.template.main import TemplateClass

TEMPLATE_NAME = "managed-session-worker"
PYTHON_VERSION = "3.12"
PACKAGE = Path(__file__).parent.parent
LIBRARY = "/opt/anthropic-managed-agents/lib/managed_session_worker"
#: The runtime, each file by its name. What only a build needs lives in this subpackage and is left out.
RUNTIME_FILES = sorted(path.name for path in PACKAGE.glob("*.py"))
#: What agents reach for first; the SDK's grep tool uses ripgrep where it is installed.
PACKAGES = ("curl", "git", "jq", "procps", "ripgrep", "unzip")


def project_version() -> str:
    """The version of this project, which is also the tag of its template."""
    try:
        return metadata.version("managed-sessions")
    except metadata.PackageNotFoundError:
        # A source tree on the import path that was never installed.
        project = tomllib.loads((PACKAGE.parent.parent / "pyproject.toml").read_text())
        return str(project["project"]["version"])


def template_name() -> str:
    """The template's name with this project's version as its tag."""
    return f"{TEMPLATE_NAME}:{project_version()}"


def worker_template() -> "TemplateClass":
    """The build steps. The sandbox gets the `anthropic` version that is installed here: the project's pin."""
    paths = Paths()
    directories = " ".join((LIBRARY, paths.exits, paths.workdir, paths.memory))
    return (
        AsyncTemplate(file_context_path=PACKAGE)
        .from_python_image(PYTHON_VERSION)
        .set_user("root")
        .apt_install(list(PACKAGES))
        .pip_install([f"anthropic=={metadata.version('anthropic')}"])
        .run_cmd(f"useradd --create-home --shell /bin/bash {AGENT_ACCOUNT}")
        .run_cmd(f"mkdir -p {directories} && chown {AGENT_ACCOUNT}: {paths.workdir} {paths.memory}")
        .copy(list(RUNTIME_FILES), f"{LIBRARY}/", user="root")
        .run_cmd(f"python3 -m compileall -q {LIBRARY}")
        .set_workdir(paths.workdir)
        .set_start_cmd(f"python3 {LIBRARY}/supervisor.py", f"[ -S {paths.socket} ]")
    )


async def template_exists(name: str | None = None, **options: Any) -> bool:
    """Whether the template (by default this version's) exists.

    Args:
        name: `NAME` or `NAME:TAG`.
        options: E2B's API parameters, such as `api_key`; by default its environment variables apply.
    """
    return await AsyncTemplate.exists(name or template_name(), **options)


async def build_template(
    *,
    name: str | None = None,
    on_log: Callable[[str], None] | None = None,
    cpu_count: int | None = None,
    memory_mb: int | None = None,
    **options: Any,
) -> "BuildInfo":
    """Build the template and wait until it can be used.

    Args:
        name: `NAME:TAG`; by default this version's name.
        on_log: Gets each line of the build's log.
        cpu_count: Virtual processors of each sandbox; E2B's default when absent.
        memory_mb: Memory of each sandbox in MiB; E2B's default when absent.
        options: E2B's API parameters, such as `api_key`; by default its environment variables apply.

    Raises:
        e2b.BuildException: a step, the start command or the ready command failed.
    """

    def log(entry: LogEntry) -> None:
        if on_log is not None:
            on_log(str(entry))

    return await AsyncTemplate.build(
        worker_template(),
        name or template_name(),
        cpu_count=cpu_count,
        memory_mb=memory_mb,
        on_build_logs=log,
        **options,
    )
