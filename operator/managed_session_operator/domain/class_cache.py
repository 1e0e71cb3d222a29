"""Keeps the newest known version of each ManagedSessionClass, and answers which one serves a session."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from managed_session_api.resource import ManagedSession
from managed_session_api.session_class import ManagedSessionClass
from pydantic import ValidationError

from managed_session_operator.domain.class_choice import Choice, SessionFacts, choose, is_recorded
from managed_session_operator.domain.resource_cache import unreadable_fields, version_of

logger = logging.getLogger(__name__)

Body = dict[str, Any]


class ClassCache:
    """A cache that may be behind. Belongs to one event loop.

    Classes that this version cannot parse match no session (`unreadable`).
    """

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._deleted: dict[str, int] = {}
        self._generations: dict[str, tuple[str, int]] = {}
        self._classes: dict[str, ManagedSessionClass] = {}
        self._unreadable: dict[str, Body] = {}

    def __len__(self) -> int:
        return len(self._versions)

    def observe(self, body: Body) -> bool:
        """Keep `body` unless a newer version is known. Return whether the class's spec is new."""
        metadata = body["metadata"]
        name, version = metadata["name"], version_of(body)
        if max(self._versions.get(name, -1), self._deleted.get(name, -1)) >= version:
            return False
        spec = (str(metadata.get("uid", "")), int(metadata.get("generation") or 0))
        changed = self._generations.get(name) != spec
        self._versions[name], self._generations[name] = version, spec
        self._keep(name, body)
        return changed

    def _keep(self, name: str, body: Body) -> None:
        try:
            parsed = ManagedSessionClass.model_validate(body)
        except ValidationError as error:
            fields = unreadable_fields(error)
            if name not in self._unreadable:
                logger.error("ignoring an unreadable class", extra={"class": name, "fields": fields})  # noqa: TRY400
            self._classes.pop(name, None)
            self._unreadable[name] = {**body, "unreadable": fields}
            return
        self._unreadable.pop(name, None)
        if parsed.metadata.deletion_timestamp is not None:
            self._classes.pop(name, None)
        else:
            self._classes[name] = parsed

    def remove(self, name: str, uid: str | None = None, version: int = -1) -> bool:
        """Forget the class (only the one with `uid`, if given). Return whether it was known.

        `version` is that of the deletion, if known. Answers that are on their way may have older ones.
        """
        self._deleted[name] = max(version, self._deleted.get(name, -1))
        known = self._generations.get(name)
        if known is None or (uid is not None and known[0] not in ("", uid)):
            return False
        for each in (self._versions, self._generations, self._classes, self._unreadable):
            each.pop(name, None)
        return True

    def replace_all(self, bodies: Iterable[Body], known: set[str]) -> set[str]:
        """Replace the contents with a fresh list. Return the names of classes that are new, changed or gone.

        `known` has the names that were known before the list was requested.
        """
        listed = {body["metadata"]["name"]: body for body in bodies}
        gone = {name for name in known - set(listed) if self.remove(name)}
        return gone | {name for name, body in listed.items() if self.observe(body)}

    def names(self) -> set[str]:
        """Return the names of all classes, parsed or not."""
        return set(self._versions)

    def all(self) -> list[ManagedSessionClass]:
        """Return all classes that can be parsed."""
        return [*self._classes.values()]

    def unreadable(self) -> dict[str, Body]:
        """Return the bodies of classes that cannot be parsed, with the wrong fields (`unreadable`)."""
        return dict(self._unreadable)

    def get(self, name: str) -> ManagedSessionClass | None:
        """Return the class called `name`; None if there is none, or it cannot be parsed."""
        return self._classes.get(name)

    def serving(self, resource: ManagedSession) -> ManagedSessionClass | None:
        """Return the class that the resource's status records; None if there is none (any more)."""
        recorded = resource.status.session_class
        found = self._classes.get(recorded.name) if recorded is not None else None
        return found if found is not None and is_recorded(found, recorded) else None

    def choose(self, resource: ManagedSession, facts: SessionFacts) -> Choice:
        """Return which class serves the session from its next claim or sandbox on."""
        if not self._classes:
            return Choice()
        return choose(self._classes.values(), facts, resource.status.session_class)
