"""`managed-sessions template build --from`: a worker template from the user's own base."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2b import AsyncTemplate, BuildException, DockerfileSyntaxError, SandboxException
from managed_session_worker.template import build_of, build_template, split_name
from managed_session_worker.template.base import (
    DOCKERFILE_SUFFIX,
    Base,
    BaseKind,
    Customisation,
    default_name,
    default_tag,
    dockerfile_state,
    dockerfile_template,
    from_base,
    is_ours,
)

from managed_session_cli.errors import TemplateError
from managed_session_cli.python_archives import Archive, archive_for, fetched, staged
from managed_session_cli.template_check import check_template

Log = Callable[[str], None]
UNCHECKED = "-unchecked"
"""Ends the tag of a build until a sandbox of it has been checked, so that the real tag means: it serves."""
_NEEDS = re.compile(r"managed-sessions: needs an interpreter: libc=(\w+) arch=(\w+): ([^\n]*)")
_REFUSED = re.compile(r"managed-sessions: refused: ([^\n]*)")
_NO_BASH = re.compile(r"/bin/bash[^\n]*no such file", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_-]+(:[a-z0-9_.-]+)?")


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        source: an image, a template or a Dockerfile; `image:` or `template:` before it decides.
        customisation: packages, commands and size.
        name: `NAME[:TAG]`; by default chosen from the base and the options.
        archive: a Python to use instead of the image's.
        rebuild: build even if the name exists, without E2B's cache.
        registry: `username` and `password` of a private registry.
    """

    source: str
    customisation: Customisation
    name: str | None = None
    archive: Archive | None = None
    rebuild: bool = False
    registry: dict[str, str] | None = None


@dataclass(frozen=True)
class Built:
    """The result.

    Attributes:
        name: `NAME:TAG`.
        build_id: of the build that the name refers to.
        found: what the check in a sandbox has found; None if the template existed already.
    """

    name: str
    build_id: str
    found: dict[str, str] | None


async def resolve_base(source: str, **options: Any) -> Base:
    """Find out what a base is: a Dockerfile if the file exists, a template if the team has it, else an image.

    Raises:
        TemplateError: it is not there, or cannot be a base.
    """
    kind, _, rest = source.partition(":")
    if kind not in ("image", "template") and (dockerfile := _dockerfile(Path(source))) is not None:
        return dockerfile
    reference = rest if kind in ("image", "template") else source
    if not reference.strip() or re.search(r"\s", reference):
        raise TemplateError(f"--from={source!r}: name an image, a template or a Dockerfile")
    if kind != "image" and re.fullmatch(r"([a-z0-9_-]+/)?[a-z0-9_-]+(:[a-z0-9_.-]+)?", reference.lower()):
        build = await build_of(reference, **options)
        if build is not None and is_ours(split_name(reference)[0]):
            raise TemplateError(
                f"--from={source}: this template has the worker already. Build from what it was built from."
            )
        if build is not None:
            return Base(BaseKind.TEMPLATE, reference, build and f"{reference}@{build}")
    if kind == "template":
        raise TemplateError(f"--from={source}: this E2B team has no such template")
    return Base(BaseKind.IMAGE, reference)


def _dockerfile(path: Path) -> Base | None:
    if not path.exists() and "Dockerfile" not in path.name:
        return None
    path = path / "Dockerfile" if path.is_dir() else path
    try:
        return Base(BaseKind.DOCKERFILE, str(path), dockerfile_state(path))
    except OSError as error:
        raise TemplateError(f"cannot read {path}: {error.strerror}") from error
    except (DockerfileSyntaxError, ValueError) as error:
        raise TemplateError(
            f"E2B's builder does not support {path}: {error}. Build the image yourself and pass its name."
        ) from error


async def build_from(request: Request, on_log: Log, **options: Any) -> Built:
    """Build a template from a base and check it in a sandbox, unless the name exists already.

    Raises:
        TemplateError: the base does not serve; the text says what to do.
    """
    base = await resolve_base(request.source, **options)
    with ExitStack() as stack:
        python, customisation = None, request.customisation
        if request.archive is not None:
            file, sha256 = stack.enter_context(fetched(request.archive))
            python = stack.enter_context(staged(file))
            customisation = replace(customisation, python_archive=sha256)
        name = full_name(request.name, base, customisation)
        on_log(f"building {name} from the {base.kind} {base.reference}")
        if not request.rebuild and (existing := await build_of(name, **options)) is not None:
            return Built(name, existing, None)
        attempt = _Attempt(request, base, customisation, name, on_log, options)
        await attempt.build_dockerfile()
        await attempt.build_worker(python)
        return await attempt.checked()


def full_name(wanted: str | None, base: Base, customisation: Customisation) -> str:
    """Return `NAME:TAG`, completed from base and options.

    Raises:
        TemplateError: E2B does not accept the name.
    """
    if wanted is not None and not _NAME.fullmatch(wanted):
        raise TemplateError(
            f"--name={wanted!r}: E2B accepts a-z, 0-9, '-', '_' in names, and '.' in tags too"
        )
    name, _, tag = (wanted or default_name(base)).partition(":")
    return f"{name}:{tag or default_tag(base, customisation)}"


@dataclass(frozen=True)
class _Attempt:
    """One run of the command."""

    request: Request
    base: Base
    customisation: Customisation
    name: str
    on_log: Log
    options: dict[str, Any]

    @property
    def _source(self) -> str | None:
        if self.base.kind is not BaseKind.DOCKERFILE:
            return None
        name, tag = split_name(self.name)
        return f"{name}{DOCKERFILE_SUFFIX}:{tag}"

    @property
    def _unchecked(self) -> str:
        return f"{self.name}{UNCHECKED}"

    async def build_dockerfile(self) -> None:
        if self._source is None:
            return
        if self.request.rebuild or await build_of(self._source, **self.options) is None:
            template = dockerfile_template(Path(self.base.reference))
            await build_template(
                name=self._source, template=template, on_log=self.on_log, skip_cache=self.request.rebuild,
                **self.options,
            )  # fmt: skip

    async def build_worker(self, python: Path | None) -> None:
        """Build; if the image has no Python that serves, once more with one of our own."""
        said: list[str] = []
        try:
            await self._build(python, said)
        except BuildException as error:
            text = "\n".join([*said, str(error)])
            if (needs := _NEEDS.search(text)) is None or python is not None:
                raise TemplateError(self._explained(text, error)) from error
        else:
            return
        self.on_log(f"{needs[3]}: bringing one")
        with fetched(archive_for(needs[1], needs[2])) as (file, _), staged(file) as folder:
            said = []
            try:
                await self._build(folder, said)
            except BuildException as error:
                raise TemplateError(self._explained("\n".join([*said, str(error)]), error)) from error

    async def _build(self, python: Path | None, said: list[str]) -> None:
        def log(line: str) -> None:
            said.append(line)
            self.on_log(line)

        template = from_base(
            self.base,
            self.customisation,
            source=self._source,
            python=python,
            registry=self.request.registry,
        )
        await build_template(
            name=self._unchecked,
            template=template,
            on_log=log,
            cpu_count=self.customisation.cpu_count,
            memory_mb=self.customisation.memory_mb,
            skip_cache=self.request.rebuild,
            **self.options,
        )

    def _explained(self, text: str, error: BuildException) -> str:
        what = f"{self.base.kind} {self.base.reference}"
        if refused := _REFUSED.search(text):
            return f"the {what} cannot be a base: {refused[1]}."
        if needs := _NEEDS.search(text):
            return f"the {what} cannot be a base: {needs[3]}. Bring a Python with --python-archive."
        if _NO_BASH.search(text):
            return f"the {what} cannot be a base: it has no /bin/bash. Install bash in it."
        return f"E2B did not build {self.name} from the {what}: {error}"

    async def checked(self) -> Built:
        """Check a sandbox of the build, and only then give it its tag."""
        if await build_of(self._unchecked, **self.options) is None and (
            other := await build_of(self.name, **self.options)
        ):
            return Built(self.name, other, None)  # somebody else has built and checked the same
        found = await check_template(self._unchecked, **self.options)
        name, tag = split_name(self.name)
        await AsyncTemplate.assign_tags(self._unchecked, [tag], **self.options)
        build = await build_of(self.name, **self.options)
        with suppress(SandboxException):  # only a name too many, or removed by somebody who builds the same
            await AsyncTemplate.remove_tags(name, [f"{tag}{UNCHECKED}"], **self.options)
        return Built(self.name, build or "", found)
