"""Brings skills into a sandbox: resolves, downloads, uploads and unpacks them.

The operator fetches them, because the skills API requires the environment key, which sandboxes do not get.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from managed_session_api.conditions import Reason

from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.ports import SandboxHandle, SandboxSkills, SkillArchives
from managed_session_operator.domain.session import SkillReference, SkillVersion
from managed_session_operator.domain.skills import Bounds, Installed, Upload
from managed_session_operator.metrics import Metrics
from managed_session_operator.settings import OperatorSettings

_LATEST = "latest"
_LONGEST_NAME = 80
_LONGEST_REASON = 300


@dataclass
class _Skill:
    """One skill of the agent, on its way into the sandbox."""

    reference: SkillReference
    there: Installed | None
    version: SkillVersion | None = None
    upload: Upload | None = None
    missing: str | None = None
    """Why the wanted version is not in the sandbox."""
    temporary_error: OperationError | None = None
    """A temporary error, after which the worker's start is tried again."""

    @property
    def present(self) -> bool:
        """Whether the sandbox has the wanted version already."""
        wanted = self.version.version_id if self.version is not None else self.reference.version
        return self.there is not None and self.there.version_id == wanted

    @property
    def label(self) -> str:
        """The skill's name for people."""
        name = self.version.name if self.version is not None else ""
        return json.dumps(name or self.reference.skill_id, ensure_ascii=False)[:_LONGEST_NAME]


@dataclass
class _Delivery:
    """All skills of the agent, with what the sandbox had before and has afterwards."""

    skills: list[_Skill]
    before: dict[str, Installed]
    after: dict[str, Installed] = field(default_factory=dict)


class SkillDelivery:
    """Brings the skills of an agent from Anthropic into a sandbox.

    Args:
        archives: the skills at Anthropic.
        in_sandbox: returns the skills of a connected sandbox.
        settings: limits for number and size.
        metrics: counts written and missing skills.
    """

    def __init__(
        self,
        archives: SkillArchives,
        in_sandbox: Callable[[SandboxHandle], SandboxSkills],
        settings: OperatorSettings,
        metrics: Metrics,
    ) -> None:
        self._archives = archives
        self._in_sandbox = in_sandbox
        self._settings = settings
        self._metrics = metrics

    async def deliver(
        self, sandbox: SandboxHandle, references: Sequence[SkillReference], *, patient: bool
    ) -> list[str]:
        """Bring the skills that the sandbox lacks. Return those that are missing afterwards, and why.

        Args:
            sandbox: the sandbox.
            references: the skills of the session's agent.
            patient: whether to raise temporary errors, so that the delivery is tried again.

        Raises:
            OperationError: the sandbox does not answer, or a temporary error occurred.
        """
        settings, there = self._settings, self._in_sandbox(sandbox)
        before = await there.installed()
        skills = [_Skill(reference, before.get(reference.skill_id)) for reference in references]
        for excess in skills[settings.skill_max_count :]:
            excess.missing = f"the agent has more than {settings.skill_max_count} skills"
        wanted = skills[: settings.skill_max_count]
        await _together(self._resolve(skill) for skill in wanted)
        absent = [skill for skill in wanted if not skill.present and skill.version is not None]
        delivery = _Delivery(skills, before, dict(before))
        if absent:
            await there.clear()
            await _together(self._upload(there, skill) for skill in absent)
        await self._install(there, delivery)
        for skill in skills:
            if skill.temporary_error is not None and patient:
                raise skill.temporary_error
            if skill.temporary_error is not None:
                skill.missing = skill.temporary_error.message
        self._metrics.skills.labels("missing").inc(sum(skill.missing is not None for skill in skills))
        return [
            f"{skill.label}: {skill.missing[:_LONGEST_REASON]}"
            for skill in skills
            if skill.missing is not None
        ]

    async def _resolve(self, skill: _Skill) -> None:
        """Find out which version is meant, unless the sandbox already has the fixed one."""
        if skill.reference.version != _LATEST and skill.present:
            return
        try:
            skill.version = await self._archives.resolve(skill.reference)
        except OperationError as error:
            _note(skill, error)

    async def _upload(self, there: SandboxSkills, skill: _Skill) -> None:
        """Copy the archive in parts from Anthropic into the sandbox."""
        if skill.version is None:
            return
        most, size = self._settings.skill_max_bytes, 0
        upload = Upload(skill.reference.skill_id, _directory(skill.version))
        try:
            seconds = self._settings.skill_timeout_seconds
            async with self._archives.open(skill.version, seconds=seconds) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > most:
                        reason = f"its archive has more than {most} bytes"
                        raise OperationError(ErrorKind.USER_ACTION, Reason.SKILL_MISSING, reason)
                    await there.add(upload, chunk)
            skill.upload = upload
        except OperationError as error:
            _note(skill, error)

    async def _install(self, there: SandboxSkills, delivery: _Delivery) -> None:
        """Unpack the uploads, remove skills that the agent no longer has, and record the result."""
        settings, before, after = self._settings, delivery.before, delivery.after
        uploads = [skill.upload for skill in delivery.skills if skill.upload is not None]
        wanted = {skill.reference.skill_id for skill in delivery.skills}
        taken = {upload.directory for upload in uploads}
        kept = wanted - {upload.key for upload in uploads}
        taken |= {each.directory for key, each in before.items() if key in kept}
        for upload in uploads:
            old = before.get(upload.key)
            upload.replaces = old.directory if old is not None and old.directory not in taken else None
        gone = {key: each.directory for key, each in before.items() if key not in wanted}
        if not uploads and not gone:
            return
        bounds = Bounds(settings.skill_max_unpacked_bytes, settings.skill_max_files)
        refused = await there.unpack(uploads, bounds, sorted(set(gone.values()) - taken))
        for key in gone:
            after.pop(key)
        for skill in delivery.skills:
            key = skill.reference.skill_id
            if skill.upload is None or skill.version is None:
                continue
            if (why := refused.get(key)) is not None:
                skill.missing = why
                self._archives.forget(skill.version)
            else:
                after[key] = Installed(skill.version.version_id, skill.upload.directory)
                self._metrics.skills.labels("written").inc()
        await there.record(after)


async def _together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently. If one fails or this is cancelled, cancel the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note(skill: _Skill, error: OperationError) -> None:
    """Note an error of this skill alone. Raise an error that concerns the whole sandbox."""
    if is_without_sandbox(error):
        raise error
    if error.kind in (ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED):
        skill.temporary_error = error
    else:
        skill.missing = error.message


def _directory(version: SkillVersion) -> str:
    """Return the directory's name, as Anthropic's worker chooses it: the last part of the skill's name."""
    name = PurePosixPath(version.name.strip()).name
    return name if name not in ("", ".", "..") else version.skill_id


def is_without_sandbox(error: OperationError) -> bool:
    """Return whether the sandbox is gone or E2B refuses us, so that no worker could be started either."""
    return str(error.reason).startswith("Sandbox") and error.kind in (
        ErrorKind.NOT_FOUND,
        ErrorKind.USER_ACTION,
    )
