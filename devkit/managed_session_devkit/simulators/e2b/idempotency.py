"""Records for `Idempotency-Key`: one outcome per key, even an error, which repetitions get again."""

import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from starlette.responses import Response

from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.settings import Settings

_KEY: Final = re.compile(r"[a-z0-9]{1,255}")
_GRACE_SECONDS: Final = 5.0


@dataclass
class _Record:
    fingerprint: str
    began: float
    response: Response | None = None
    abandoned: bool = False


def fingerprint(method: str, path: str, fields: dict[str, Any]) -> str:
    """Return a request's identity: its method, its target and the fields that the operation knows."""
    return sha256(json.dumps([method, path, fields], sort_keys=True).encode()).hexdigest()


@dataclass
class IdempotencyStore:
    """The records by key."""

    records: dict[str, _Record] = field(default_factory=dict)

    async def run(
        self, key: str, identity: str, settings: Settings, operation: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Run `operation` once per key, or replay its recorded outcome. Raises ApiError 400, 409, 422."""
        if not _KEY.fullmatch(key):
            raise ApiError(400, "Invalid Idempotency-Key header: use 1 to 255 characters of [a-z0-9]")
        record = self.records.get(key)
        if record is not None and time.monotonic() - record.began > settings.idempotency_window_seconds:
            record = None
        if record is not None:
            return self._replay(record, identity, settings)
        record = self.records[key] = _Record(identity, time.monotonic())
        try:
            response = await operation()
        except ApiError as error:
            response = error.response()
        except BaseException:
            record.abandoned = True
            raise
        if not record.abandoned:
            record.response = Response(response.body, response.status_code, media_type=response.media_type)
        return response

    def abandon(self, key: str) -> None:
        """Never record the outcome of this key's request (a fault)."""
        record = self.records.get(key)
        if record is not None:
            record.abandoned = True
            record.response = None

    def _replay(self, record: _Record, identity: str, settings: Settings) -> Response:
        if record.fingerprint != identity:
            raise ApiError(
                409,
                "Idempotency-Key was already used with a different request",
                error_code="idempotency_request_mismatch",
            )
        if record.response is not None:
            stored = record.response
            return Response(stored.body, stored.status_code, media_type=stored.media_type)
        waited = time.monotonic() - record.began
        if record.abandoned or waited > settings.idempotency_deadline_seconds + _GRACE_SECONDS:
            raise ApiError(
                422,
                "The outcome of the original request with this Idempotency-Key is unknown",
                error_code="idempotency_outcome_unknown",
            )
        raise ApiError(
            409,
            "A request with this Idempotency-Key is still in progress",
            error_code="idempotency_in_progress",
        )
