"""Keeps the newest known version of each resource, from the watch and from the answers to our own writes."""

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
    """Return the resource version of an object as the API server sends it."""
    # Kubernetes guarantees since 1.35 that resource versions compare as integers. Earlier versions do so too.
    return int(body["metadata"].get("resourceVersion") or 0)


def unreadable_fields(error: ValidationError) -> list[str]:
    """Return the paths of the fields that cannot be parsed."""
    return sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()})


def _session(body: Body) -> str:
    return str((body.get("spec") or {}).get("sessionID") or "")


def _owner(body: Body) -> str | None:
    owner: str | None = ((body.get("status") or {}).get("sandbox") or {}).get("sharedBy")
    return owner


def _discard(index: dict[Any, set[str]], key: str | None, name: str) -> None:
    found = index.get(key)
    if found is not None:
        found.discard(name)
        if not found:
            del index[key]


def _parse(body: Body) -> ManagedSession | None:
    try:
        return ManagedSession.model_validate(body)
    except ValidationError as error:
        # Written by another version of the operator. The other resources must not suffer from it.
        fields = unreadable_fields(error)
        name = body["metadata"]["name"]
        logger.error("ignoring an unreadable resource", extra={"resource": name, "fields": fields})  # noqa: TRY400
        return None


class ResourceCache:
    """A cache that may be behind. Belongs to one event loop.

    That is safe: every write carries the version on which it was based, and each resync lists all resources.
    """

    def __init__(self) -> None:
        self._bodies: dict[str, Body] = {}
        self._by_session: dict[str, set[str]] = {}
        self._by_owner: dict[str, set[str]] = {}
        self._parsed: dict[str, tuple[int, ManagedSession | None]] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    def names(self) -> list[str]:
        """Return the names of all resources."""
        return list(self._bodies)

    def observe(self, body: Body) -> bool:
        """Keep `body` unless a newer version is known. Return whether it was kept."""
        name = body["metadata"]["name"]
        known = self._bodies.get(name)
        if known is not None and version_of(known) >= version_of(body):
            return False
        body = {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "managedFields"}}
        if known is not None and (_session(known), _owner(known)) != (_session(body), _owner(body)):
            self.remove(name)
        self._bodies[name] = body
        self._by_session.setdefault(_session(body), set()).add(name)
        if (owner := _owner(body)) is not None:
            self._by_owner.setdefault(owner, set()).add(name)
        return True

    def remove(self, name: str, uid: str | None = None) -> None:
        """Forget the resource (only the one with `uid`, if given)."""
        body = self._bodies.get(name)
        if body is None or (uid is not None and body["metadata"].get("uid") != uid):
            return
        del self._bodies[name]
        self._parsed.pop(name, None)
        _discard(self._by_session, _session(body), name)
        _discard(self._by_owner, _owner(body), name)

    def replace_all(self, bodies: Iterable[Body], known: set[str]) -> set[str]:
        """Replace the contents with a fresh list.

        Args:
            bodies: the listed resources.
            known: names known before the list was requested. Later ones are newer than the list.

        Returns:
            The names of resources that no longer exist.
        """
        listed = {body["metadata"]["name"]: body for body in bodies}
        vanished = known - set(listed)
        for name in vanished:
            self.remove(name)
        for body in listed.values():
            self.observe(body)
        return vanished

    def get(self, name: str) -> ManagedSession | None:
        """Return the resource called `name`; None if there is none, or it cannot be parsed."""
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
        """Return the identities of all resources (see ManagedSession.identity), parsed or not."""
        return {names.identity(body["metadata"]) for body in self._bodies.values()}

    def sharing(self, owner_name: str) -> set[str]:
        """Return the names of the resources that refer to the ManagedSandbox, parsed or not."""
        return set(self._by_owner.get(owner_name, ()))

    def newest_version(self) -> int:
        """Return the highest resource version of all resources; 0 if there are none."""
        return max((version_of(body) for body in self._bodies.values()), default=0)

    def has(self, name: str) -> bool:
        """Return whether there is a resource called `name`, parsed or not."""
        return name in self._bodies

    def all(self) -> Iterator[ManagedSession]:
        """Yield all resources that can be parsed."""
        for name in list(self._bodies):
            resource = self.get(name)
            if resource is not None:
                yield resource

    def serving_name(self, session_id: str) -> str | None:
        """Return the name of the resource that serves the session: the oldest one.

        Creation times are whole seconds. Among resources of the same second, the one with the name that
        webhook and operator use comes first, then the first by name.
        """
        siblings = self._by_session.get(session_id)
        if not siblings:
            return None
        own = resource_name(session_id) if is_session_id(session_id) else None

        def age(name: str) -> tuple[str, bool, str]:
            return self._bodies[name]["metadata"].get("creationTimestamp", ""), name != own, name

        return min(siblings, key=age)
