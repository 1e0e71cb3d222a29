"""A template from a base of the user's: an image, a template of the team, or a Dockerfile.

The steps after the user's own: copy the worker (and a Python, if the image has none that serves), find the
interpreter (`interpreter.sh`), install the SDK beside it, and prepare the image as for the standard template.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from e2b import AsyncTemplate

from managed_session_worker.paths import Paths
from managed_session_worker.template import (
    IGNORED,
    LIBRARY,
    PACKAGE,
    START_COMMAND,
    TEMPLATE_NAME,
    project_version,
)

if TYPE_CHECKING:
    from e2b.template.main import TemplateBuilder, TemplateClass

PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""Pythons that serve: the worker needs 3.11, the project is tested up to 3.14. Also in `interpreter.sh`."""
DOCKERFILE_SUFFIX = "-base"
"""Ends the name of the template that a Dockerfile is built as; the worker's is built from it."""
FINGERPRINT_LENGTH = 10
_LONGEST_SLUG = 40
_INSTALL = (
    "if command -v apt-get; then apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y "
    "--no-install-recommends {0}; elif command -v apk; then apk add --no-cache {0}; "
    "elif command -v dnf; then dnf -y install {0}; elif command -v microdnf; then microdnf -y install {0}; "
    "elif command -v zypper; then zypper --non-interactive install {0}; "
    "elif command -v pacman; then pacman -Sy --noconfirm {0}; "
    "else echo 'managed-sessions: refused: the image has no package manager for --package'; exit 65; fi"
)


class BaseKind(StrEnum):
    """What a template is built from."""

    IMAGE = "image"
    TEMPLATE = "template"
    DOCKERFILE = "Dockerfile"


@dataclass(frozen=True)
class Base:
    """What a template is built from.

    Attributes:
        kind: of the base.
        reference: the image, the template's name, or the path of the Dockerfile.
        state: what changes when the base changes under the same reference: the build of a template, the
            content of a Dockerfile and its files. Empty for an image, whose registry is not asked.
    """

    kind: BaseKind
    reference: str
    state: str = ""


@dataclass(frozen=True)
class Customisation:
    """The user's options.

    Attributes:
        packages: of the image's package manager.
        commands: run as root after the packages are installed.
        cpu_count: virtual processors; E2B's default if None.
        memory_mb: in MiB; E2B's default if None.
        python_archive: SHA-256 of the Python that the user brings; None if the image's is used.
    """

    packages: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    cpu_count: int | None = None
    memory_mb: int | None = None
    python_archive: str | None = None


def fingerprint(base: Base, customisation: Customisation) -> str:
    """Return what tells templates of one version apart: the same for the same base and options."""
    parts = [base.kind, base.state or base.reference, asdict(customisation)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def default_name(base: Base) -> str:
    """Return the template's name for a base: `managed-session-worker-node-22` for the image `node:22`."""
    reference = base.reference
    if base.kind is BaseKind.DOCKERFILE:
        reference = Path(reference).resolve().parent.name
    slug = re.sub(r"[^a-z0-9]+", "-", reference.partition("@")[0].lower()).strip("-")
    return f"{TEMPLATE_NAME}-{slug[-_LONGEST_SLUG:].strip('-') or 'custom'}"


def default_tag(base: Base, customisation: Customisation) -> str:
    """Return this version and the fingerprint."""
    version = re.sub(r"[^a-z0-9_.-]", "-", project_version().lower())
    return f"{version}-{fingerprint(base, customisation)}"


def is_ours(name: str) -> bool:
    """Return whether a template's name is one that this project gives."""
    last = name.rpartition("/")[2]
    return last == TEMPLATE_NAME or last.startswith(f"{TEMPLATE_NAME}-")


def dockerfile_template(path: Path) -> TemplateClass:
    """Return the template of a Dockerfile alone, with its folder as the context.

    Raises:
        e2b.DockerfileSyntaxError: E2B's builder does not support it, for example for several stages.
    """
    return AsyncTemplate(file_context_path=path.parent).from_dockerfile(path.read_text())


def dockerfile_state(path: Path) -> str:
    """Return a hash of a Dockerfile and of the files that it copies (raises as `dockerfile_template`)."""
    steps = json.loads(AsyncTemplate.to_json(dockerfile_template(path)))
    return hashlib.sha256(json.dumps(steps, sort_keys=True).encode()).hexdigest()


def from_base(
    base: Base,
    customisation: Customisation,
    *,
    source: str | None = None,
    python: Path | None = None,
    registry: Mapping[str, str] | None = None,
) -> TemplateClass:
    """Return the build steps.

    Args:
        base: what to build from.
        customisation: the user's options.
        source: for a Dockerfile, the name of the template that it was built as.
        python: a folder with a relocatable Python and the worker (`interpreters.stage`).
        registry: `username` and `password` of a private registry.
    """
    paths = Paths()
    context = python or PACKAGE.parent
    template = AsyncTemplate(file_context_path=context, file_ignore_patterns=list(IGNORED))
    if base.kind is BaseKind.IMAGE:
        builder = template.from_image(base.reference, **(registry or {}))
    else:
        builder = template.from_template(source or base.reference)
    builder = builder.set_user("root")
    if customisation.packages:
        builder = builder.run_cmd(_INSTALL.format(shlex.join(customisation.packages)))
    for command in customisation.commands:
        builder = builder.run_cmd(command)
    return _with_worker(builder, paths, own_python=python is not None)


def _with_worker(builder: TemplateBuilder, paths: Paths, *, own_python: bool) -> TemplateClass:
    if own_python:
        builder = builder.copy("python", paths.python, user="root")
    pip = f"{paths.build}/pip install --no-cache-dir --target {paths.build}/packages"
    return (
        builder.copy(PACKAGE.name, LIBRARY, user="root")
        .run_cmd(f"sh {LIBRARY}/interpreter.sh")
        .run_cmd(f"{pip} anthropic=={metadata.version('anthropic')}")
        .run_cmd(f"{paths.build}/python3 {LIBRARY}/prepare.py")
        .set_workdir(paths.workdir)
        .set_start_cmd(START_COMMAND, f"[ -S {paths.socket} ]")
    )
