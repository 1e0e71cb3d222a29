"""Checks periodically whether the API server can be used, so that probes cost nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from managed_session_runtime.kubernetes_errors import KubernetesMisconfiguredError, KubernetesUnavailableError
from managed_session_runtime.managed_session_client import ManagedSessionClient

logger = logging.getLogger(__name__)

_PROBE_NAME = "readiness-probe"
"""Name of no resource: the answer `not found` verifies address, token, rights and CRD at once."""
_MISSED_CHECKS = 3


class KubernetesReadiness:
    """Ready if a check has succeeded recently and the process is not shutting down."""

    def __init__(self, api: ManagedSessionClient, interval_seconds: float) -> None:
        self._api = api
        self._interval_seconds = interval_seconds
        self._reached_at: float | None = None
        self._problem = "not checked yet"
        self._stopping = False

    def stop(self) -> None:
        """Become unready, because the process is shutting down."""
        self._stopping = True

    @property
    def reachable(self) -> bool:
        """Whether a check has succeeded recently."""
        limit = _MISSED_CHECKS * self._interval_seconds
        return self._reached_at is not None and time.monotonic() - self._reached_at < limit

    def check(self) -> tuple[bool, dict[str, Any]]:
        """Return the response for /readyz."""
        if self._stopping:
            return False, {"reason": "shutting down"}
        return self.reachable, {"kubernetes": "reachable" if self.reachable else self._problem}

    async def watch(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                await self._api.get(_PROBE_NAME, from_cache=True)
            except (KubernetesUnavailableError, KubernetesMisconfiguredError) as error:
                if str(error) != self._problem:
                    logger.error("not ready: %s", error)  # noqa: TRY400 - a traceback would add nothing
                self._problem = str(error)
            except Exception:
                logger.exception("the readiness check failed")
            else:
                self._problem = ""
                self._reached_at = time.monotonic()
            await asyncio.sleep(self._interval_seconds)
