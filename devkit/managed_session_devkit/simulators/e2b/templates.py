"""Templates: names, tags and builds. As in E2B, a second build of a template cancels the first.

COPY steps become files. RUN steps are executed if they run a Python or shell script of the template, and
`pip install --target` gives the simulator's own packages. Others are only recorded, because sandboxes use the
host's packages. Some images lack what others have (`image.LACKS`).
"""

import asyncio
import logging
import random
import re
import string
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from managed_session_devkit.simulators.common.times import now, rfc3339, timestamp
from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.host import SandboxHostError
from managed_session_devkit.simulators.e2b.layer_cache import LayerCache
from managed_session_devkit.simulators.e2b.namespace import image, root
from managed_session_devkit.simulators.e2b.runtime_pool import (
    RuntimePool,
    TemplateBuild,
    is_script,
)
from managed_session_devkit.simulators.e2b.template_layer import CopyError, apply_copy, shared_trees

_log = logging.getLogger(__name__)
_DEFAULT_TAG: Final = "default"
_IDENTIFIER: Final = string.ascii_lowercase + string.digits
_LOGS_PER_ANSWER: Final = 100
_NO_FILE: Final = "no such file or directory"
_PIP_TARGET: Final = re.compile(r"pip install .*--target (\S+)")
"""Such a step makes the folder a link to the packages of the simulator's environment."""
_NAME: Final = re.compile(r"[a-z0-9_-]+")
_TAG: Final = re.compile(r"[a-z0-9_.-]+")


def identifier(length: int = 20) -> str:
    """Return a random identifier in E2B's alphabet."""
    return "".join(random.choices(_IDENTIFIER, k=length))


@dataclass
class Build:
    """One build: its request and its progress."""

    build: TemplateBuild
    tags: list[str]
    status: str = "waiting"
    request: dict[str, Any] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    failed_step: str | None = None
    task: asyncio.Task[None] | None = None
    created_at: datetime = field(default_factory=now)

    def fail(self, reason: str) -> None:
        """End the build without a result."""
        self.reason = reason
        self.log(f"Build failed: {reason}")
        self.status = "error"

    def log(self, message: str, step: str | None = None) -> None:
        """Add a log line."""
        entry = {"timestamp": timestamp(), "message": message, "level": "info"}
        if step is not None:
            entry["step"] = step
        self.logs.append(entry)

    def status_json(self, offset: int, limit: int) -> dict[str, Any]:
        """Return the answer of the status endpoint."""
        entries = self.logs[offset : offset + min(limit, _LOGS_PER_ANSWER)]
        answer: dict[str, Any] = {
            "templateID": self.build.template_id,
            "buildID": self.build.build_id,
            "status": self.status,
            "logs": [entry["message"] for entry in entries],
            "logEntries": entries,
        }
        if self.reason is not None:
            answer["reason"] = {"message": self.reason, "logEntries": []}
            if self.failed_step is not None:
                answer["reason"]["step"] = self.failed_step
        return answer


@dataclass
class Template:
    """A template with its builds. A tag names a finished build."""

    id: str
    name: str
    builds: dict[str, Build] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    tagged_at: dict[str, datetime] = field(default_factory=dict)


def split_name(name: str) -> tuple[str, str | None]:
    """Split `[namespace/]name[:tag]` into name and tag (or None), in lower case.

    The rules are those of E2B's API (`ParseName` in e2b-dev/infra). Raises ApiError 400 for any other name.
    """
    path, colon, tag = name.partition(":")
    namespace, slash, base = path.partition("/")
    if not slash:
        namespace, base = "", path
    checked_tag = _checked("tag", tag, name) if colon else None
    if slash:
        _checked("namespace", namespace, name)
    return _checked("template", base, name), checked_tag


def _checked(part: str, value: str, whole: str) -> str:
    """Return a part of a name without surrounding blanks, in lower case. Raises ApiError 400."""
    cleaned = value.strip().lower()
    if not (_TAG if part == "tag" else _NAME).fullmatch(cleaned):
        allowed = "a-z, 0-9, '-', '_', '.'" if part == "tag" else "a-z, 0-9, '-', '_'"
        raise ApiError(400, f"Invalid name '{whole}': the {part} '{value}' may hold only {allowed}")
    return cleaned


def _checked_tags(tags: list[str]) -> list[str]:
    return [_checked("tag", tag, tag) for tag in tags]


class Templates:
    """The templates of the team."""

    def __init__(self, directory: Path, runtimes: RuntimePool) -> None:
        self._directory = directory
        self._runtimes = runtimes
        self._layers = LayerCache(runtimes.settings.layer_cache_folder)
        self._templates: dict[str, Template] = {}
        self._running: set[asyncio.Task[None]] = set()
        base = Template("rki5dems9wqfm4r03t7g", "base")
        ready = Build(TemplateBuild(base.id, str(uuid4())), [_DEFAULT_TAG], status="ready")
        base.builds[ready.build.build_id] = ready
        self._tag(base, _DEFAULT_TAG, ready.build.build_id)
        self._templates[base.id] = base

    def find(self, name: str) -> Template:
        """Return a template by ID or name, and ignore a tag in it. Raises ApiError 404."""
        base, _ = split_name(name)
        for template in self._templates.values():
            if base in (template.id, template.name):
                return template
        raise ApiError(404, f"template '{name}' not found")

    def has(self, template_id: str) -> bool:
        """Return whether the template still exists."""
        return template_id in self._templates

    def add(self, build: TemplateBuild, name: str | None) -> str:
        """Add a snapshot as a template, or as another build of the one of this name. Return its ID."""
        known = next((each for each in self._templates.values() if name and each.name == name), None)
        template = known or Template(build.template_id, name or build.template_id)
        build.template_id = template.id
        self._templates[template.id] = template
        template.builds[build.build_id] = Build(build, [_DEFAULT_TAG], status="ready")
        self._tag(template, _DEFAULT_TAG, build.build_id)
        return template.id

    def resolve(self, name: str) -> tuple[TemplateBuild, str]:
        """Return the build and the alias that a create with `name[:tag]` uses. Raises ApiError 404."""
        template = self.find(name)
        tag = split_name(name)[1] or _DEFAULT_TAG
        build_id = template.tags.get(tag)
        if build_id is None:
            raise ApiError(404, f"template '{name}' with tag '{tag}' not found")
        return template.builds[build_id].build, template.name

    def request_build(self, body: dict[str, Any]) -> tuple[Template, Build]:
        """Handle `POST /v3/templates`: add a build that waits for its files. Raises ApiError 400."""
        name = body.get("name") or body.get("alias")
        if not isinstance(name, str):
            raise ApiError(400, "Template name is required")
        base, tag = split_name(name)
        wanted = [*([tag] if tag else []), *_checked_tags(body.get("tags") or [])]
        tags = list(dict.fromkeys(wanted)) or [_DEFAULT_TAG]
        try:
            template = self.find(base)
        except ApiError:
            template = self._templates.setdefault(template_id := identifier(), Template(template_id, base))
        build = TemplateBuild(
            template.id,
            str(uuid4()),
            cpu_count=int(body.get("cpuCount") or 2),
            memory_mb=int(body.get("memoryMB") or 1024),
        )
        for waiting in template.builds.values():
            if waiting.status == "waiting" and set(waiting.tags) & set(tags):
                waiting.fail("The build was canceled because it was superseded by a newer one.")
        template.builds[build.build_id] = record = Build(build, tags)
        return template, record

    def build(self, template_id: str, build_id: str) -> Build:
        """Return a build. Raises ApiError 404."""
        record = self.find(template_id).builds.get(build_id)
        if record is None:
            raise ApiError(404, f"Build '{build_id}' not found")
        return record

    def upload_path(self, template_id: str, files_hash: str) -> Path:
        """Return the path of the archive with this hash. Raises ApiError 400, 404."""
        self.find(template_id)
        if not files_hash.isalnum():
            raise ApiError(400, "Invalid files hash")
        return self._directory / "uploads" / f"{files_hash}.tar"

    def start_build(self, template_id: str, build_id: str, body: dict[str, Any]) -> None:
        """Handle `POST /v2/templates/{id}/builds/{id}`: build in the background. Raises ApiError 400, 404."""
        record = self.build(template_id, build_id)
        if record.status != "waiting":
            raise ApiError(400, "build is not in waiting state")
        template = self.find(template_id)
        for other in template.builds.values():
            if other.status == "building" and other.task is not None:
                other.task.cancel()
        record.status = "building"
        record.request = body
        record.task = asyncio.get_running_loop().create_task(self._run(template, record))
        self._running.add(record.task)
        record.task.add_done_callback(self._running.discard)

    async def _run(self, template: Template, record: Build) -> None:
        try:
            await self._materialise(template, record)
            record.log("Finalizing template build", "finalize")
            self._runtimes.give(await self._runtimes.make(record.build))
        except asyncio.CancelledError:
            record.failed_step = None
            record.fail("build was cancelled")
            raise
        except Exception as error:  # noqa: BLE001 - clients that wait for the build must see any end
            if not isinstance(error, (SandboxHostError, CopyError, ApiError, OSError)):
                _log.exception("build of template %s failed", template.name)
            record.failed_step = record.failed_step or "finalize"
            record.fail(str(error) or type(error).__name__)
            return
        for tag in record.tags:
            self._tag(template, tag, record.build.build_id)
        record.log("Build finished, template is ready", "finalize")
        record.status = "ready"

    async def _materialise(self, template: Template, record: Build) -> None:
        build, body = record.build, record.request
        layer = self._directory / "layers" / build.build_id
        layer.mkdir(parents=True)
        layer.chmod(0o755)
        source = body.get("fromTemplate")
        parent = self.resolve(source)[0] if source else None
        below = (parent.layer if parent else None) or self._runtimes.skeleton
        await asyncio.to_thread(root.copy_tree, below, layer)
        if parent is not None:
            build.environment = dict(parent.environment)
            build.user, build.directory = parent.user, parent.directory
            build.lacks = parent.lacks
        build.lacks = build.lacks or image.LACKS.get(str(body.get("fromImage")), frozenset())
        build.layer = layer
        if "python" in build.lacks:
            await asyncio.to_thread(image.remove_python, layer)
        record.log(f"FROM {source or body.get('fromImage', 'e2bdev/base')}", "base")
        for number, step in enumerate(body.get("steps") or [], start=1):
            record.failed_step = str(number)
            await self._step(template, record, layer, number, step)
        record.failed_step = None
        await asyncio.to_thread(image.finalize, layer)
        build.shared = await asyncio.to_thread(shared_trees, layer)
        build.start_command = str(body.get("startCmd") or "")
        build.ready_command = str(body.get("readyCmd") or "")

    async def _step(
        self, template: Template, record: Build, layer: Path, number: int, step: dict[str, Any]
    ) -> None:
        kind, arguments = str(step.get("type", "")).upper(), [str(word) for word in step.get("args") or []]
        build = record.build
        record.log(f"[builder {number}] {kind} {' '.join(arguments)}", str(number))
        if kind in ("COPY", "ADD"):
            archive = self.upload_path(template.id, str(step.get("filesHash") or "-"))
            if not archive.is_file():
                raise CopyError(f"failed to open files object from storage: no upload for step {number}")
            await asyncio.to_thread(apply_copy, archive, layer, arguments, build.user, build.directory)
        elif kind == "ENV":
            build.environment.update(zip(arguments[::2], arguments[1::2], strict=False))
        elif kind == "WORKDIR" and arguments:
            build.directory = str(Path(build.directory) / arguments[0])
            target = layer / build.directory.lstrip("/")
            await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        elif kind == "USER" and arguments:
            # RUN steps that make users are not executed, so an unknown user means `user`.
            build.user = "root" if arguments[0] == "root" else "user"
        elif kind == "RUN" and "bash" in build.lacks:
            raise CopyError(f"failed to run command '{arguments[0]}': fork/exec /bin/bash: {_NO_FILE}")
        elif kind == "RUN" and (found := _PIP_TARGET.search(arguments[0])):
            await asyncio.to_thread(image.install_packages, layer, found[1])
        elif kind == "RUN" and is_script(arguments[0]):
            await self._run_script(record, layer, number, arguments[0])
        elif kind == "RUN":
            record.log("recorded, not executed by the simulator", str(number))

    async def _run_script(self, record: Build, layer: Path, number: int, command: str) -> None:
        kept = self._kept_name(record, number)
        if kept is not None and await asyncio.to_thread(self._layers.restore, kept, layer):
            record.log("CACHED", str(number))
            return
        code, output = await self._runtimes.run_step(record.build, layer, command)
        for line in output.splitlines():
            record.log(line, str(number))
        if code:
            raise CopyError(f"failed to run command '{command}': exit status {code}: {output[-500:]}")
        if kept is not None:
            await asyncio.to_thread(self._layers.keep, kept, layer)

    def _kept_name(self, record: Build, number: int) -> str | None:
        """Return the name under which the layer after this step is kept, or None."""
        body = record.request
        if body.get("force") or body.get("fromTemplate"):
            return None
        lacks = [{"lacks": sorted(record.build.lacks)}] if record.build.lacks else []
        return self._layers.name_of([*lacks, *body.get("steps", [])[:number]])

    def _tag(self, template: Template, tag: str, build_id: str) -> None:
        template.tags[tag] = build_id
        template.tagged_at[tag] = now()

    def assign_tags(self, target: str, tags: list[str]) -> str:
        """Add tags to the build that `target` names, and return its ID. Raises ApiError 400, 404."""
        build, _ = self.resolve(target)
        template = self.find(target)
        for tag in _checked_tags(tags):
            self._tag(template, tag, build.build_id)
        return build.build_id

    def remove_tags(self, name: str, tags: list[str]) -> None:
        """Remove tags. Raises ApiError 404 for an unknown one."""
        template = self.find(name)
        for tag in tags:
            if template.tags.pop(tag, None) is None:
                raise ApiError(404, f"tag '{tag}' not found")

    def delete(self, name: str) -> None:
        """Delete a template. Raises ApiError 404."""
        del self._templates[self.find(name).id]

    def listed_json(self) -> list[dict[str, Any]]:
        """Return the entries of the list. Size and state are those of the newest finished build."""
        entries = []
        for template in self._templates.values():
            records = list(template.builds.values())
            ready = [record for record in records if record.status == "ready"]
            if not ready:
                continue
            entries.append(
                {
                    "templateID": template.id,
                    "buildID": ready[-1].build.build_id,
                    "cpuCount": ready[-1].build.cpu_count,
                    "memoryMB": ready[-1].build.memory_mb,
                    "diskSizeMB": 10240,
                    "public": False,
                    "aliases": [template.name],
                    "names": [template.name],
                    "createdAt": rfc3339(records[0].created_at),
                    "updatedAt": rfc3339(ready[-1].created_at),
                    "createdBy": None,
                    "lastSpawnedAt": None,
                    "spawnCount": 0,
                    "buildCount": len(records),
                    "envdVersion": self._runtimes.settings.envd_version,
                    "buildStatus": "ready",
                }
            )
        return entries

    def as_json(self) -> list[dict[str, Any]]:
        """Return all templates and builds with their recorded steps, for the control surface."""
        return [
            {
                "templateID": template.id,
                "name": template.name,
                "tags": template.tags,
                "warm": sum(self._runtimes.kept(build_id) for build_id in template.builds),
                "builds": [
                    {
                        "buildID": record.build.build_id,
                        "status": record.status,
                        "createdAt": rfc3339(record.created_at),
                        "tags": record.tags,
                        "request": record.request,
                        "layer": str(record.build.layer) if record.build.layer else None,
                        "sharesStartCommandMemory": record.build.script is not None,
                    }
                    for record in template.builds.values()
                ],
            }
            for template in self._templates.values()
        ]

    async def close(self) -> None:
        """Stop all builds."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
