"""Defines what the operator knows of a session, and of the skills of its agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from managed_session_operator.domain.usage import Usage


@dataclass(frozen=True)
class SkillReference:
    """A skill as a session's agent names it: `version` is an ID, or the alias `latest`."""

    skill_id: str
    version: str


@dataclass(frozen=True)
class SkillVersion:
    """One version of a skill, under the name that its author gave it."""

    skill_id: str
    version_id: str
    name: str


@dataclass(frozen=True)
class SessionView:
    """A session as Anthropic reports it (`GET /v1/sessions/{id}`)."""

    session_id: str
    environment_id: str
    agent_id: str | None
    status: str
    archived: bool
    skills: tuple[SkillReference, ...] = ()
    """The skills of its agent. They stay the same for the session's life."""
    agent_name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    usage: Usage | None = None

    @property
    def ended(self) -> bool:
        """Whether the session was terminated or archived, so that it never runs again."""
        return self.archived or self.status == "terminated"
