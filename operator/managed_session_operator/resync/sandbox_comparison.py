"""Compares E2B's sandboxes with the resources. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from managed_session_api.resource import ManagedSession, SandboxState, SandboxStatus

from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.resource_cache import ResourceCache
from managed_session_operator.domain.sandbox import SandboxView
from managed_session_operator.resync.ownership import Owners, is_settled
from managed_session_operator.resync.sandbox_list import Listing


@dataclass
class Comparison:
    """What a list showed about resources, by name, and which sandboxes nobody needs.

    Attributes:
        missing, running_unneeded, unrecorded, periods: as in `Findings`.
        paused_under_worker: resources whose sandbox was found paused twice although this process takes it for
            running.
        candidates: orphaned sandboxes, by ID.
        superseded: sandboxes of resources that use another one.
    """

    missing: set[str] = field(default_factory=set)
    running_unneeded: set[str] = field(default_factory=set)
    unrecorded: set[str] = field(default_factory=set)
    periods: dict[str, datetime] = field(default_factory=dict)
    paused_under_worker: set[str] = field(default_factory=set)
    candidates: dict[str, SandboxView] = field(default_factory=dict)
    superseded: list[tuple[ManagedSession, SandboxView]] = field(default_factory=list)


class SandboxComparison:
    """Compares each list with the resources, and remembers what the list before showed.

    Args:
        connected: whether this process takes the sandbox of the named resource for running.
    """

    def __init__(self, connected: Callable[[str], bool]) -> None:
        self._connected = connected
        self._running: set[str] = set()
        self._paused: set[str] = set()

    def compare(
        self,
        listing: Listing,
        views: Iterable[SandboxView],
        owners: Owners,
        store: ResourceCache,
        shared: Mapping[str, SandboxView] = MappingProxyType({}),
    ) -> Comparison:
        """Return what the list shows.

        Args:
            listing: the list.
            views: the sandboxes of the list to compare.
            owners: the owners of the sandboxes.
            store: all resources.
            shared: the shared sandboxes of the list, by ID. They belong to no session alone.
        """
        found, running, paused = Comparison(), set[str](), set[str]()
        listed: dict[str, set[str]] = {}
        for resource, view in _needed(_unsettled(views, owners, listed), owners, found):
            name = resource.metadata.name
            listed.setdefault(resource.metadata.uid, set()).add(view.sandbox_id)
            if is_unrecorded(resource, view):
                found.unrecorded.add(name)
            if not view.paused:
                found.periods[name] = view.started_at
            if self._runs_unneeded(resource, view, listing.asked_at):
                running.add(view.sandbox_id)
                if view.sandbox_id in self._running:
                    found.running_unneeded.add(name)
            elif view.paused and self._works(resource):
                paused.add(view.sandbox_id)
                if view.sandbox_id in self._paused:
                    found.paused_under_worker.add(name)
        paused |= self._compare_shared(store, shared, found)
        if listing.whole:
            found.missing = _missing(store, listed, listing.passing | shared.keys())
        self._running = running
        # A list that was not read to its end may lack paused sandboxes, so earlier ones are kept.
        self._paused = paused if listing.whole else self._paused | paused
        return found

    def _compare_shared(
        self, store: ResourceCache, shared: Mapping[str, SandboxView], found: Comparison
    ) -> set[str]:
        """Note what the list shows of shared sandboxes. Return the IDs of those paused under a worker."""
        paused = set()
        using = ((view, each) for view in shared.values() for each in store.of_sandbox(view.sandbox_id))
        for view, resource in using:
            name = resource.name
            if not view.paused:
                found.periods[name] = view.started_at
                if resource.wait_paused and not self._connected(name):
                    # Its worker is not frozen, so a suspension or the session's end has to stop it.
                    found.running_unneeded.add(name)
            elif resource.claim_active and self._connected(name):
                paused.add(view.sandbox_id)
                if view.sandbox_id in self._paused:
                    found.paused_under_worker.add(name)
        return paused

    def _runs_unneeded(self, resource: ManagedSession, view: SandboxView, asked_at: datetime) -> bool:
        """Return whether the sandbox runs although the resource says that it is paused.

        A list that was requested before the session's last turn ended may show it as it was in that turn.
        """
        needed = claim_active(resource) or self._connected(resource.metadata.name)
        finished_at = resource.status.work.finished_at
        current = finished_at is None or finished_at <= asked_at
        paused = resource.status.sandbox.state is SandboxState.PAUSED
        return not view.paused and not needed and current and paused

    def _works(self, resource: ManagedSession) -> bool:
        """Return whether this process takes the sandbox for running and serves a claim in it."""
        return claim_active(resource) and self._connected(resource.metadata.name)


def _unsettled(
    views: Iterable[SandboxView], owners: Owners, listed: dict[str, set[str]]
) -> Iterator[SandboxView]:
    """Yield the sandboxes of which there may be something to find. Note the others in `listed`."""
    for view in views:
        owner = owners.summary_of(view)
        if owner is not None and is_settled(owner, view):
            listed.setdefault(owner.uid, set()).add(view.sandbox_id)
        else:
            yield view


def _needed(
    views: Iterable[SandboxView], owners: Owners, found: Comparison
) -> Iterator[tuple[ManagedSession, SandboxView]]:
    """Yield the sandboxes that a resource may need, with that resource. Note the others in `found`."""
    for view in views:
        resource = owners.of(view)
        if resource is None or is_orphaned(resource, view):
            found.candidates[view.sandbox_id] = view
        elif is_superseded(resource, view):
            found.superseded.append((resource, view))
        else:
            yield resource, view


def _missing(store: ResourceCache, listed: dict[str, set[str]], passing: frozenset[str]) -> set[str]:
    """Return the resources whose sandbox is missing from a list that was read to its end.

    Args:
        store: all resources.
        listed: the sandboxes in the list, by the UID of their resource.
        passing: see Listing.
    """
    return {
        each.name
        for each in store.summaries()
        if each.sandbox_id is not None
        and each.sandbox_id not in listed.get(each.uid, ())
        and each.sandbox_id not in passing
    }


def is_superseded(resource: ManagedSession, view: SandboxView) -> bool:
    """Return whether the resource uses another sandbox, so that nobody will ever need this one.

    A sandbox of a later attempt than the status knows is still needed: the status comes from an old backup.
    """
    sandbox = resource.status.sandbox
    settled = sandbox.id is not None and sandbox.state is not SandboxState.CREATING
    settled = settled and not _is_kept(sandbox, view)
    return settled and sandbox.id != view.sandbox_id and view.attempt <= sandbox.attempt


def is_orphaned(resource: ManagedSession, view: SandboxView) -> bool:
    """Return whether the resource uses no sandbox. Until this one is killed, a create would adopt it."""
    sandbox = resource.status.sandbox
    settled = sandbox.id is None and sandbox.state is not SandboxState.CREATING
    settled = settled and not _is_kept(sandbox, view)
    return settled and not is_unrecorded(resource, view)


def _is_kept(sandbox: SandboxStatus, view: SandboxView) -> bool:
    """Return whether the resource may use the sandbox again, although it does not at present."""
    replaced = sandbox.replaces.id if sandbox.replaces is not None else None
    return view.sandbox_id in (replaced, *sandbox.vanished)


def is_unrecorded(resource: ManagedSession, view: SandboxView) -> bool:
    """Return whether the status was removed, so that it does not know the attempt of this sandbox."""
    sandbox = resource.status.sandbox
    blank = sandbox.id is None and sandbox.state is not SandboxState.CREATING
    return blank and view.attempt > sandbox.attempt
