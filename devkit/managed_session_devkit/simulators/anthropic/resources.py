"""Agents, environments, skills and memory stores, as far as workers and operators read them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from typing import Any

from managed_session_devkit.simulators.anthropic.errors import APIError
from managed_session_devkit.simulators.anthropic.identifiers import new_id
from managed_session_devkit.simulators.common.times import timestamp

_TOOLSET: dict[str, Any] = {
    "type": "agent_toolset_20260401",
    "configs": [],
    "default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}},
}


def new_agent(agent_id: str, skills: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return an agent (`BetaManagedAgentsAgent`) with the agent toolset and these skills."""
    at = timestamp()
    return {
        "type": "agent",
        "id": agent_id,
        "name": "Simulated agent",
        "description": None,
        "system": None,
        "version": 1,
        "model": {"id": "claude-opus-5-5"},
        "tools": [_TOOLSET],
        "skills": skills or [],
        "mcp_servers": [],
        "multiagent": None,
        "execution_identity": {"type": "service_account"},
        "metadata": {},
        "created_at": at,
        "updated_at": at,
        "archived_at": None,
    }


def session_agent(agent: dict[str, Any]) -> dict[str, Any]:
    """Return the snapshot of an agent that a session carries (`BetaManagedAgentsSessionAgent`)."""
    left_out = {"metadata", "created_at", "updated_at", "archived_at"}
    return {key: value for key, value in agent.items() if key not in left_out}


def new_environment(environment_id: str) -> dict[str, Any]:
    """Return a self-hosted environment (`BetaEnvironment`)."""
    at = timestamp()
    return {
        "type": "environment",
        "id": environment_id,
        "name": environment_id,
        "description": None,
        "config": {"type": "self_hosted"},
        "metadata": {},
        "created_at": at,
        "updated_at": at,
        "archived_at": None,
        "scope": "organization",
    }


@dataclass
class Skill:
    """One version of a skill. Its download has all files in one top-level directory."""

    id: str
    name: str
    description: str
    files: dict[str, str]
    content: bytes | None = None
    """An archive to serve as it is, instead of one made of `files`."""
    version_id: str = field(default_factory=lambda: new_id("skillver"))
    created_at: str = field(default_factory=timestamp)

    def as_json(self) -> dict[str, Any]:
        """Return `BetaSkillVersion`."""
        return {
            "type": "skill_version",
            "id": self.version_id,
            "skill_id": self.id,
            "name": self.name,
            "description": self.description,
            "created_at": self.created_at,
        }

    def archive(self) -> bytes:
        """Return the given archive, or a ZIP archive of the files."""
        if self.content is not None:
            return self.content
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in self.files.items():
                member = zipfile.ZipInfo(f"{self.name}/{path}")
                member.external_attr = (0o755 if content.startswith("#!") else 0o644) << 16
                archive.writestr(member, content)
        return buffer.getvalue()


class SkillStore:
    """All versions of skills. ``latest`` is the newest."""

    def __init__(self) -> None:
        self._versions: dict[str, list[Skill]] = {}

    def add(self, skill: Skill) -> None:
        """Add a version."""
        self._versions.setdefault(skill.id, []).append(skill)

    def get(self, skill_id: str, version: str, *, allow_latest: bool) -> Skill:
        """Return a version by its ID or, if allowed, by the alias ``latest``. Raises APIError 404."""
        versions = self._versions.get(skill_id, [])
        if version == "latest" and allow_latest and versions:
            return versions[-1]
        for skill in versions:
            if skill.version_id == version:
                return skill
        raise APIError(404, f"Skill {skill_id} has no version {version}")


class MemoryStore:
    """The memories of one store, by path."""

    def __init__(self, store_id: str) -> None:
        self.id = store_id
        self._memories: dict[str, dict[str, Any]] = {}

    def list(self, *, full: bool) -> list[dict[str, Any]]:
        """Return the memories ordered by path, with their content if `full`."""
        ordered = sorted(self._memories.values(), key=lambda memory: str(memory["path"]))
        return [memory if full else {**memory, "content": None} for memory in ordered]

    def get(self, memory_id: str) -> dict[str, Any]:
        """Return a memory. Raises APIError 404."""
        memory = self._memories.get(memory_id)
        if memory is None:
            raise APIError(404, f"Memory {memory_id} not found")
        return memory

    def create(self, path: str, content: str) -> dict[str, Any]:
        """Add a memory. Raises APIError 409 if the path is taken."""
        if any(memory["path"] == path for memory in self._memories.values()):
            raise APIError(409, f"A memory exists at {path}", kind="memory_path_conflict_error")
        memory = {
            "type": "memory",
            "id": new_id("mem"),
            "memory_store_id": self.id,
            "created_at": timestamp(),
        }
        self._memories[memory["id"]] = memory
        return self._write(memory, path, content)

    def update(self, memory_id: str, change: dict[str, Any]) -> dict[str, Any]:
        """Change a memory. Raises APIError: 404 if unknown, 409 if the precondition on its content fails."""
        memory = self.get(memory_id)
        wanted = (change.get("precondition") or {}).get("content_sha256")
        if wanted is not None and wanted != memory["content_sha256"]:
            raise APIError(409, "The memory has changed", kind="memory_precondition_failed_error")
        content = memory["content"] if change.get("content") is None else change["content"]
        return self._write(memory, change.get("path") or memory["path"], content)

    def delete(self, memory_id: str, content_sha256: str | None = None) -> dict[str, Any]:
        """Delete a memory. Raises APIError: 404 if unknown, 409 if its content is not that expected."""
        if content_sha256 not in (None, self.get(memory_id)["content_sha256"]):
            raise APIError(409, "The memory has changed", kind="memory_precondition_failed_error")
        del self._memories[memory_id]
        return {"type": "memory_deleted", "id": memory_id}

    def _write(self, memory: dict[str, Any], path: str, content: str) -> dict[str, Any]:
        encoded = content.encode()
        memory.update(
            path=path,
            content=content,
            content_sha256=hashlib.sha256(encoded).hexdigest(),
            content_size_bytes=len(encoded),
            memory_version_id=new_id("memver"),
            updated_at=timestamp(),
        )
        return memory
