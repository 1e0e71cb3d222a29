"""Elects one leader at a time with a Kubernetes Lease.

The library's own elector keeps leading after a connection error during renewal, and has no timeout per call,
no release and no transition count. Here, the leader trusts its Lease by its own monotonic clock, every call
has a timeout, work is cancelled as soon as the Lease is no longer valid, the Lease is released on stop, and
`leaseTransitions` is the epoch that fences off what a late leader still sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio.client import ApiClient, CoordinationV1Api, V1Lease, V1LeaseSpec, V1ObjectMeta

from managed_session_operator.clients.kubernetes.calls import kubernetes_call
from managed_session_operator.domain.errors import (
    ConflictError,
    NotLeadingError,
    OperationError,
    ResourceGoneError,
)

logger = logging.getLogger(__name__)


_STANDBY_SECONDS = 1.5
"""A standby checks the Lease about twice in this time, so that it takes over a released one at once."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now_ticking() -> float:
    """Return a clock in seconds that continues while the machine sleeps, so that a frozen leader notices."""
    return time.clock_gettime(_CLOCK)


class Leadership:
    """Holds the Lease, or waits for it.

    Args:
        api_client: connection to the API server.
        namespace: namespace of the Lease.
        name: name of the Lease.
        identity: name of this process in the Lease.
        duration: seconds for which a renewal is valid.
        renew_every: seconds between renewals.
        on_turn: called after each attempt to read or renew the Lease, successful or not.
        on_acquired: called with the annotations of the Lease when this process has acquired it.
        annotations: what each renewal writes to the Lease's annotations; None removes one.
    """

    def __init__(
        self,
        api_client: ApiClient,
        namespace: str,
        name: str,
        *,
        identity: str,
        duration: float,
        renew_every: float,
        on_turn: Callable[[], None] = lambda: None,
        on_acquired: Callable[[Mapping[str, str]], None] = lambda _: None,
        annotations: Callable[[], Mapping[str, str | None]] = dict,
    ) -> None:
        self._leases = CoordinationV1Api(api_client)
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration
        self._renew_every = renew_every
        self._on_turn = on_turn
        self._on_acquired = on_acquired
        self._annotations = annotations
        self._valid_until = 0.0
        self._epoch = 0
        self._lease: Any = None
        self._seen: tuple[str, float] | None = None

    @property
    def identity(self) -> str:
        """The name of this process in the Lease."""
        return self._identity

    @property
    def epoch(self) -> int:
        """The Lease's transition count, which grows with every change of leader."""
        return self._epoch

    @property
    def leading(self) -> bool:
        """Whether this process holds a Lease that is certainly still valid."""
        return _now_ticking() < self._valid_until

    def fence(self) -> None:
        """Raise NotLeadingError unless this process is the leader."""
        if not self.leading:
            raise NotLeadingError("this process is not the leader")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead` whenever this process holds the Lease, and cancel it when the Lease is lost.

        Ends only when cancelled. It then releases the Lease, so that a successor need not wait.
        """
        try:
            while True:
                self._on_turn()
                if await self._acquire():
                    await self._lead(lead)
                else:
                    await asyncio.sleep(min(self._renew_every, _STANDBY_SECONDS) * random.uniform(0.3, 0.6))
        finally:
            await asyncio.shield(self._release())

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        logger.info("leading", extra={"epoch": self._epoch, "identity": self._identity})
        work = asyncio.ensure_future(lead())
        tasks = {work, asyncio.create_task(self._keep()), asyncio.create_task(self._outlive())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                logger.warning("lease lost", extra={"epoch": self._epoch})
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self) -> None:
        """Renew the Lease until it is lost."""
        while self.leading:
            await asyncio.sleep(self._renew_every * random.uniform(0.8, 1.0))
            await self._renew()
            self._on_turn()

    async def _outlive(self) -> None:
        """Return as soon as the Lease is no longer valid, even if a renewal is still waiting."""
        left = self._valid_until - _now_ticking()
        while left > 0:
            # Sleep briefly, because the loop's clock stops while the machine sleeps.
            await asyncio.sleep(min(left, self._renew_every))
            left = self._valid_until - _now_ticking()

    async def _acquire(self) -> bool:
        """Take the Lease if nobody holds it."""
        try:
            started = _now_ticking()
            try:
                lease = await self._call("lease read", self._leases.read_namespaced_lease)
            except ResourceGoneError:
                if self._seen is not None and started - self._seen[1] <= self._duration:
                    # Someone deleted the Lease of a leader, which may not have noticed yet.
                    return False
                return await self._write(started, None, transitions=self._next_epoch(0))
            spec = lease.spec
            holder = spec.holder_identity or ""
            if holder and holder != self._identity and not self._lapsed(lease, started):
                return False
            return await self._write(
                started, lease, transitions=self._next_epoch(spec.lease_transitions or 0)
            )
        except (OperationError, ConflictError, ResourceGoneError) as error:
            logger.warning("lease not acquired", extra={"cause": str(error)})
            return False

    def _next_epoch(self, last: int) -> int:
        """Return an epoch higher than all before, even if the Lease was deleted or restored from a backup.

        Sandboxes remember the highest epoch they have seen and outlive the Lease. An epoch is therefore at
        least the time in minutes, which fits the field's 32 bits until the year 6000.
        """
        return max(last + 1, self._epoch + 1, int(time.time() // 60))

    def _lapsed(self, lease: Any, now: float) -> bool:
        """Whether the holder has not renewed the Lease for its whole duration, by this process's clock."""
        version = lease.metadata.resource_version
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
            return False
        return now - self._seen[1] > float(lease.spec.lease_duration_seconds or self._duration)

    async def _renew(self) -> None:
        try:
            await self._write(_now_ticking(), self._lease, transitions=self._epoch)
        except ConflictError:
            await self._check_holder()
        except ResourceGoneError:
            self._valid_until = 0.0
        except OperationError as error:
            logger.warning("lease not renewed", extra={"cause": str(error)})

    async def _check_holder(self) -> None:
        """After a conflict, continue with the newest Lease if it is still ours."""
        with contextlib.suppress(OperationError, ConflictError, ResourceGoneError):
            lease = await self._call("lease read", self._leases.read_namespaced_lease)
            if lease.spec.holder_identity == self._identity and lease.spec.lease_transitions == self._epoch:
                self._lease = lease
            else:
                self._valid_until = 0.0

    async def _write(self, started: float, lease: Any, *, transitions: int) -> bool:
        now = datetime.now(UTC)
        new_term = lease is None or transitions != self._epoch or self._lease is None
        acquired = now if new_term else lease.spec.acquire_time
        body = V1Lease(
            metadata=V1ObjectMeta(
                name=self._name,
                resource_version=lease.metadata.resource_version if lease else None,
                annotations=self._kept(lease) if new_term else self._own(lease),
            ),
            spec=V1LeaseSpec(
                holder_identity=self._identity,
                lease_duration_seconds=max(1, round(self._duration)),
                acquire_time=acquired,
                renew_time=now,
                lease_transitions=transitions,
            ),
        )
        if lease is None:
            written = await self._call("lease create", self._leases.create_namespaced_lease, body)
        else:
            written = await self._call("lease update", self._leases.replace_namespaced_lease, body)
        self._lease, self._epoch = written, transitions
        self._valid_until = started + self._duration * 0.8
        if new_term:
            self._on_acquired(self._kept(written))
        return True

    def _kept(self, lease: Any) -> dict[str, str]:
        """Return the Lease's annotations."""
        return dict(lease.metadata.annotations or {}) if lease is not None else {}

    def _own(self, lease: Any) -> dict[str, str]:
        """Return the Lease's annotations with ours."""
        merged = {**self._kept(lease), **self._annotations()}
        return {name: value for name, value in merged.items() if value is not None}

    async def _release(self) -> None:
        if self._lease is None or not self.leading:
            return
        self._valid_until = 0.0
        self._lease.spec.holder_identity = ""
        self._lease.metadata.annotations = self._own(self._lease)
        self._lease.spec.lease_duration_seconds = 1
        with contextlib.suppress(OperationError, ConflictError, ResourceGoneError):
            await self._call("lease release", self._leases.replace_namespaced_lease, self._lease)
            logger.info("lease released", extra={"epoch": self._epoch})

    async def _call(self, operation: str, method: Callable[..., Awaitable[Any]], body: Any = None) -> Any:
        arguments: dict[str, Any] = {"namespace": self._namespace}
        if operation != "lease create":
            arguments["name"] = self._name
        if body is not None:
            arguments["body"] = body
        timeout = min(self._renew_every, self._duration / 4)
        async with kubernetes_call(operation, timeout=timeout, fence=None):
            return await method(**arguments)
