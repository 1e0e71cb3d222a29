"""The classes of the in-memory world, and how it judges a sandbox by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from managed_session_api.resource import Status

from .examples import class_body


@dataclass
class WorldWithClasses:
    """The part of the world that keeps classes as the API server does."""

    classes: dict[str, dict[str, Any]] = field(default_factory=dict, kw_only=True)
    class_version: int = field(default=0, kw_only=True)

    def set_class(self, name: str, spec: dict[str, Any]) -> None:
        """Make the class, or change it."""
        self.class_version += 1
        known = self.classes.get(name)
        generation = known["metadata"]["generation"] + 1 if known is not None else 1
        self.classes[name] = class_body(
            name,
            uid=known["metadata"]["uid"] if known is not None else f"uid-{self.class_version}",
            version=self.class_version,
            generation=generation,
            spec=spec,
        )


def judge_new_sandbox(status: Status, template: str, deny: Sequence[str]) -> None:
    """Require that the status says with which values the sandbox is created."""
    if status.session_class is not None and status.effective is not None:
        assert template == status.effective.template, "created with a template that nobody recorded"
        denied = status.effective.network.deny if status.effective.network is not None else []
        assert deny == tuple(denied), "created with rules that nobody recorded"
