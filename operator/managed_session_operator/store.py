"""The newest known version of each resource: what the watch said and what our own writes were answered."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from managed_session_api import names
from managed_session_api.names import is_session_id, resource_name
from managed_session_api.resource import ManagedSession
from pydantic import ValidationError

logger = logging.getLogger(__name__)

Body = dict[str, Any]


def version_of(body: Body) -> int:
    """The resource version of an object as the API server sends it."""
    # Resource versions are comparable as integers since Kubernetes 1.35; before that they were in practice.
    return int(body["metadata"].get("resourceVersion") or 0)


def _session(body: Body) -> str:
    return str((body.get("spec") or {}).get("sessionID") or "")


def _parse(body: Body) -> ManagedSession | None:
    try:
        return ManagedSession.model_validate(body)
    except ValidationError as error:
        # Written by another version: the rest must go on.
        fields = sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()})
        name = body["metadata"]["name"]
        logger.error("resource not understood", extra={"resource": name, "fields": fields})  # noqa: TRY400
        return None


class ResourceStore:
    """Lives on one event loop. Not a truth: reconciles write with the version they read, and sweeps list."""

    def __init__(self) -> None:
        self._bodies: dict[str, Body] = {}
        self._by_session: dict[str, set[str]] = {}
        self._parsed: dict[str, tuple[int, ManagedSession | None]] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    def names(self) -> list[str]:
        """All known names."""
        return list(self._bodies)

    def observe(self, body: Body) -> bool:
        """Note `body` unless something newer is known. Returns whether it was news."""
        name = body["metadata"]["name"]
        known = self._bodies.get(name)
        if known is not None and version_of(known) >= version_of(body):
            return False
        body = {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "managedFields"}}
        if known is not None and _session(known) != _session(body):
            self.remove(name)
        self._bodies[name] = body
        self._by_session.setdefault(_session(body), set()).add(name)
        return True

    def remove(self, name: str, uid: str | None = None) -> None:
        """Forget the resource (only the one with `uid`, if given)."""
        body = self._bodies.get(name)
        if body is None or (uid is not None and body["metadata"].get("uid") != uid):
            return
        del self._bodies[name]
        self._parsed.pop(name, None)
        session_id = _session(body)
        siblings = self._by_session.get(session_id)
        if siblings is not None:
            siblings.discard(name)
            if not siblings:
                del self._by_session[session_id]

    def replace_all(self, bodies: Iterable[Body], known: set[str]) -> set[str]:
        """Make the store agree with a fresh list.

        Args:
            bodies: the list.
            known: the names that were known before it was asked for; what came since is newer than the list.

        Returns:
            The names that have vanished.
        """
        listed = {body["metadata"]["name"]: body for body in bodies}
        vanished = known - set(listed)
        for name in vanished:
            self.remove(name)
        for body in listed.values():
            self.observe(body)
        return vanished

    def get(self, name: str) -> ManagedSession | None:
        """The resource called `name`, typed; None also for one that can't be understood."""
        body = self._bodies.get(name)
        if body is None:
            return None
        version = version_of(body)
        parsed = self._parsed.get(name)
        if parsed is None or parsed[0] != version:
            parsed = (version, _parse(body))
            self._parsed[name] = parsed
        return parsed[1]

    def identities(self) -> set[str]:
        """The identities of all resources, understood or not (see ManagedSession.identity)."""
        return {names.identity(body["metadata"]) for body in self._bodies.values()}

    def newest_version(self) -> int:
        """The highest resource version of all resources; 0 where there are none."""
        return max((version_of(body) for body in self._bodies.values()), default=0)

    def has(self, name: str) -> bool:
        """Whether there is a resource called `name`, understood or not."""
        return name in self._bodies

    def all(self) -> Iterator[ManagedSession]:
        """All resources, typed."""
        for name in list(self._bodies):
            resource = self.get(name)
            if resource is not None:
                yield resource

    def serving_name(self, session_id: str) -> str | None:
        """The name of the resource that serves the session: the oldest.

        Creation times are whole seconds; of several in one second the one goes first that webhook and
        operator would have made, then the first by name.
        """
        siblings = self._by_session.get(session_id)
        if not siblings:
            return None
        own = resource_name(session_id) if is_session_id(session_id) else None

        def age(name: str) -> tuple[str, bool, str]:
            return self._bodies[name]["metadata"].get("creationTimestamp", ""), name != own, name

        return min(siblings, key=age)
