"""Remembers who has signed in, by a cookie that says nothing about the token."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiolimiter import AsyncLimiter

from managed_session_dashboard.access import AccessUnknownError, Identity

logger = logging.getLogger(__name__)

_MAX_VIEWERS = 1000
_MAX_ADDRESSES = 4096
_LIMIT_PERIOD_SECONDS = 60.0


class Rights(Protocol):
    """Knows who may see the page."""

    async def still_allowed(self, identity: Identity) -> bool:
        """Return whether someone who has signed in may still see the page, or raise AccessUnknownError."""


@dataclass(eq=False)
class Viewer:
    """Someone who has signed in.

    Attributes:
        identity: who it is.
        ends_at: when the sign-in ends, by the clock.
        checked_at: when the right to see the page was last checked.
        ended: whether the sign-in has ended early.
    """

    identity: Identity
    ends_at: float
    checked_at: float
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Viewers:
    """The sign-ins of this process. They end with it.

    Args:
        rights: where rights are checked again.
        seconds: maximum duration of a sign-in.
        recheck_seconds: seconds after which a right is checked again.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        rights: Rights,
        *,
        seconds: float,
        recheck_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rights = rights
        self._seconds = seconds
        self._recheck_seconds = recheck_seconds
        self._clock = clock
        self._viewers: OrderedDict[bytes, Viewer] = OrderedDict()
        """By the digest of the cookie, oldest first."""

    def add(self, identity: Identity) -> tuple[str, int]:
        """Sign someone in. Return the cookie's value and for how many seconds it is valid."""
        now = self._clock()
        ends_at = min(now + self._seconds, identity.expires_at or float("inf"))
        self._viewers = OrderedDict((k, v) for k, v in self._viewers.items() if v.ends_at > now)
        while len(self._viewers) >= _MAX_VIEWERS:
            _, oldest = self._viewers.popitem(last=False)
            oldest.ended = True
        cookie = secrets.token_urlsafe(32)
        self._viewers[_key(cookie)] = Viewer(identity, ends_at, now)
        return cookie, max(0, int(ends_at - now))

    def remove(self, cookie: str) -> None:
        """Sign someone out."""
        viewer = self._viewers.pop(_key(cookie), None)
        if viewer is not None:
            viewer.ended = True

    async def find(self, cookie: str) -> Viewer | None:
        """Return whose cookie this is, if the sign-in is still valid."""
        viewer = self._viewers.get(_key(cookie)) if cookie else None
        if viewer is None:
            return None
        if not await self.is_valid(viewer):
            self.remove(cookie)
            return None
        return viewer

    async def is_valid(self, viewer: Viewer) -> bool:
        """Return whether a sign-in is still valid. Checks the right again from time to time.

        While the API server cannot be asked, the last answer counts.
        """
        async with viewer.lock:
            now = self._clock()
            if viewer.ended or now >= viewer.ends_at:
                return False
            if now - viewer.checked_at < self._recheck_seconds:
                return True
            viewer.checked_at = now
            try:
                viewer.ended = not await self._rights.still_allowed(viewer.identity)
            except AccessUnknownError as error:
                logger.warning("cannot check a viewer's right: %s", error)
            else:
                if viewer.ended:
                    logger.info("signed out, because the right is gone", extra={"user": viewer.identity.name})
            return not viewer.ended


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()


class FailedSignIns:
    """Limits failed sign-ins by client address.

    Args:
        per_minute: how many an address may have in a minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._limiters: OrderedDict[str, AsyncLimiter] = OrderedDict()

    def may_try(self, address: str) -> bool:
        """Return whether the address may try to sign in."""
        limiter = self._limiters.get(address)
        return limiter is None or limiter.has_capacity()

    async def note(self, address: str) -> None:
        """Count a failed sign-in."""
        limiter = self._limiters.get(address)
        if limiter is None:
            limiter = self._limiters[address] = AsyncLimiter(self._per_minute, _LIMIT_PERIOD_SECONDS)
        self._limiters.move_to_end(address)
        while len(self._limiters) > _MAX_ADDRESSES:
            self._limiters.popitem(last=False)
        if limiter.has_capacity():
            await limiter.acquire()
