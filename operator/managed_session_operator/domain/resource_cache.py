"""Keeps the newest known version of each resource, from the watch and from the answers to our own writes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

from managed_session_api.names import is_session_id, resource_name
from managed_session_api.resource import ManagedSession
from pydantic import ValidationError
from pydantic_core import to_json

from managed_session_operator.domain.resource_summary import ResourceSummary, summary_of

logger = logging.getLogger(__name__)

Body = dict[str, Any]

MOST_PARSED = 1024
"""How many resources are kept in their parsed form, which takes about 15 kB each."""


def version_of(body: Body) -> int:
    """Return the resource version of an object as the API server sends it."""
    # Kubernetes guarantees since 1.35 that resource versions compare as integers. Earlier versions do so too.
    return int(body["metadata"].get("resourceVersion") or 0)


def unreadable_fields(error: ValidationError) -> list[str]:
    """Return the paths of the fields that cannot be parsed."""
    return sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()})


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


class _Kept(NamedTuple):
    """A resource as the cache keeps it: as JSON, which takes a fifth of the memory of its parsed form."""

    summary: ResourceSummary
    data: bytes


class ResourceCache:
    """A cache that may be behind. Belongs to one event loop.

    Every resource is kept as JSON with a summary; the parsed forms of those that were used last are kept too.

    Args:
        most_parsed: how many parsed forms are kept.
    """

    def __init__(self, most_parsed: int = MOST_PARSED) -> None:
        self._most_parsed = most_parsed
        self._kept: dict[str, _Kept] = {}
        self._parsed: OrderedDict[str, ManagedSession] = OrderedDict()
        self._by_session: dict[str, set[str]] = {}
        self._by_owner: dict[str, set[str]] = {}
        self._by_sandbox: dict[str, set[str]] = {}
        self._by_identity: dict[str, set[str]] = {}
        self._in_motion: set[str] = set()
        self._unreadable: set[str] = set()
        self._newest = 0

    def __len__(self) -> int:
        return len(self._kept)

    def names(self) -> list[str]:
        """Return the names of all resources."""
        return list(self._kept)

    def observe(self, body: Body) -> bool:
        """Keep `body` unless a newer version is known. Return whether it was kept."""
        name, version = body["metadata"]["name"], version_of(body)
        known = self._kept.get(name)
        if known is not None and known.summary.version >= version:
            return False
        body = {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "managedFields"}}
        resource = _parse(body)
        if known is not None:
            self._drop(known.summary)
        summary = summary_of(body, resource)
        self._kept[name] = _Kept(summary, to_json(body))
        self._index(summary)
        self._newest = max(self._newest, version)
        if resource is not None:
            self._keep_parsed(name, resource)
        return True

    def _index(self, summary: ResourceSummary) -> None:
        for index, key in self._indexes(summary):
            if key is not None:
                index.setdefault(key, set()).add(summary.name)
        if not summary.readable:
            self._unreadable.add(summary.name)
        elif not summary.at_rest:
            self._in_motion.add(summary.name)

    def _drop(self, summary: ResourceSummary) -> None:
        del self._kept[summary.name]
        self._parsed.pop(summary.name, None)
        self._in_motion.discard(summary.name)
        self._unreadable.discard(summary.name)
        for index, key in self._indexes(summary):
            _discard(index, key, summary.name)

    def _indexes(self, summary: ResourceSummary) -> tuple[tuple[dict[str, set[str]], str | None], ...]:
        return (
            (self._by_session, summary.session_id),
            (self._by_owner, summary.shared_by),
            (self._by_sandbox, summary.sandbox_id),
            (self._by_identity, summary.identity),
        )

    def remove(self, name: str, uid: str | None = None) -> None:
        """Forget the resource (only the one with `uid`, if given)."""
        kept = self._kept.get(name)
        if kept is None or (uid is not None and kept.summary.uid != uid):
            return
        self._drop(kept.summary)
        if kept.summary.version == self._newest:
            self._newest = max((each.summary.version for each in self._kept.values()), default=0)

    async def replace_all(self, pages: AsyncIterator[Sequence[Body]]) -> set[str]:
        """Replace the contents with a fresh list, which is read page by page.

        Names that appear while the list is read are newer than it.

        Returns:
            The names of resources that no longer exist.
        """
        known, listed = set(self._kept), set[str]()
        async for page in pages:
            for body in page:
                listed.add(body["metadata"]["name"])
                self.observe(body)
        vanished = known - listed
        for name in vanished:
            self.remove(name)
        return vanished

    def get(self, name: str) -> ManagedSession | None:
        """Return the resource called `name`; None if there is none, or it cannot be parsed."""
        parsed = self._parsed.get(name)
        if parsed is not None:
            self._parsed.move_to_end(name)
            return parsed
        kept = self._kept.get(name)
        if kept is None or not kept.summary.readable:
            return None
        parsed = ManagedSession.model_validate_json(kept.data)
        self._keep_parsed(name, parsed)
        return parsed

    def _keep_parsed(self, name: str, resource: ManagedSession) -> None:
        self._parsed[name] = resource
        if len(self._parsed) > self._most_parsed:
            self._parsed.popitem(last=False)

    def summary(self, name: str) -> ResourceSummary | None:
        """Return the summary of the resource called `name`; None if there is none."""
        kept = self._kept.get(name)
        return kept.summary if kept is not None else None

    def summaries(self) -> Iterator[ResourceSummary]:
        """Yield the summaries of all resources that can be parsed."""
        return (each.summary for each in list(self._kept.values()) if each.summary.readable)

    def in_motion(self) -> Iterator[ResourceSummary]:
        """Yield the summaries of the resources that can be parsed and are not at rest."""
        return (self._kept[name].summary for name in list(self._in_motion) if name in self._kept)

    def identities(self) -> set[str]:
        """Return the identities of all resources (see ManagedSession.identity), parsed or not."""
        return set(self._by_identity)

    def unreadable_identities(self) -> set[str]:
        """Return the identities of the resources that cannot be parsed."""
        return {self._kept[name].summary.identity for name in self._unreadable}

    def sharing(self, owner_name: str) -> set[str]:
        """Return the names of the resources that refer to the ManagedSandbox, parsed or not."""
        return set(self._by_owner.get(owner_name, ()))

    def of_session(self, session_id: str) -> list[ResourceSummary]:
        """Return the summaries of all resources of the session that can be parsed."""
        return self._readable(self._by_session.get(session_id))

    def of_sandbox(self, sandbox_id: str) -> list[ResourceSummary]:
        """Return the summaries of the resources that record this sandbox."""
        return self._readable(self._by_sandbox.get(sandbox_id))

    def of_identity(self, identity: str) -> list[ResourceSummary]:
        """Return the summaries of the resources with this identity that can be parsed."""
        return self._readable(self._by_identity.get(identity))

    def _readable(self, names: set[str] | None) -> list[ResourceSummary]:
        found = (self._kept[name].summary for name in names or ())
        return [summary for summary in found if summary.readable]

    def newest_version(self) -> int:
        """Return the highest resource version of all resources; 0 if there are none."""
        return self._newest

    def has(self, name: str) -> bool:
        """Return whether there is a resource called `name`, parsed or not."""
        return name in self._kept

    def serving_name(self, session_id: str) -> str | None:
        """Return the name of the resource that serves the session: the oldest one.

        Creation times are whole seconds. Among resources of the same second, the one with the name that
        webhook and operator use comes first, then the first by name.
        """
        siblings = self._by_session.get(session_id)
        if not siblings:
            return None
        if len(siblings) == 1:
            return next(iter(siblings))
        own = resource_name(session_id) if is_session_id(session_id) else None

        def age(name: str) -> tuple[str, bool, str]:
            return self._kept[name].summary.created, name != own, name

        return min(siblings, key=age)
