"""Whether the API server can be used: looked at in intervals, so that a probe costs nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from managed_session_webhook.session_api import (
    KubernetesMisconfiguredError,
    KubernetesUnavailableError,
    SessionApi,
)

_logger = logging.getLogger(__name__)

_PROBE_NAME = "readiness-probe"
"""Of no resource: a `not found` proves address, token, rights and resource definition at once."""
_MISSED_CHECKS = 3


class KubernetesReadiness:
    """Ready while a check has succeeded recently and shutdown has not begun."""

    def __init__(self, api: SessionApi, interval_seconds: float) -> None:
        self._api = api
        self._interval_seconds = interval_seconds
        self._reached_at: float | None = None
        self._problem = "not checked yet"
        self._stopping = False

    def stop(self) -> None:
        """Be unready from now on: the process is going away."""
        self._stopping = True

    @property
    def reachable(self) -> bool:
        """Whether a check has succeeded recently."""
        limit = _MISSED_CHECKS * self._interval_seconds
        return self._reached_at is not None and time.monotonic() - self._reached_at < limit

    def check(self) -> tuple[bool, dict[str, Any]]:
        """The answer for /readyz."""
        if self._stopping:
            return False, {"reason": "shutting down"}
        return self.reachable, {"kubernetes": "reachable" if self.reachable else self._problem}

    async def watch(self) -> None:
        """Check for ever; a task's body."""
        while True:
            try:
                await self._api.get(_PROBE_NAME, from_cache=True)
            except (KubernetesUnavailableError, KubernetesMisconfiguredError) as error:
                if str(error) != self._problem:
                    _logger.error("not ready: %s", error)  # noqa: TRY400 - the text says it all
                self._problem = str(error)
            except Exception:
                _logger.exception("the readiness check failed")
            else:
                self._problem = ""
                self._reached_at = time.monotonic()
            await asyncio.sleep(self._interval_seconds)
