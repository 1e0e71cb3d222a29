"""Handles a webhook delivery, from the request to the response."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from managed_session_api import names
from managed_session_runtime.credentials import CredentialError
from managed_session_runtime.kubernetes_errors import KubernetesMisconfiguredError, KubernetesUnavailableError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from managed_session_webhook.body import (
    MAX_BODY_BYTES,
    BodyIncompleteError,
    BodyReader,
    BodyTooLargeError,
)
from managed_session_webhook.event_store import EventStore, ResourceTerminatingError
from managed_session_webhook.events import (
    InvalidEventError,
    SessionEvent,
    UnrecognizedEventError,
    parse_event,
)
from managed_session_webhook.metrics import Outcome, WebhookMetrics
from managed_session_webhook.rejections import RejectionLog
from managed_session_webhook.signature import (
    BadSignatureError,
    NoSigningKeyError,
    SignatureVerifier,
    header_problem,
)

logger = logging.getLogger(__name__)

_WRITTEN = frozenset({Outcome.CREATED, Outcome.RECORDED})
"""Outcomes of events that were written to a resource."""


class RequestRejected(Exception):  # noqa: N818 - an answer, and no fault of this process
    """The request is rejected, with this response and this reason in the log."""

    def __init__(self, status: int, outcome: Outcome, public: str, reason: str | None = None) -> None:
        super().__init__(reason or public)
        self.status = status
        self.outcome = outcome
        self.public = public


class DeliveryEndpoint:
    """`POST /webhook`: answers 204 if the event is recorded or needs no record, otherwise an error in JSON.

    Signed events of an unknown shape are acknowledged: Anthropic counts a rejection as a failure of the
    endpoint and disables the endpoint after too many.

    400 signed, but not JSON · 401 not signed by Anthropic · 408 body incomplete in time · 413 body above
    1 MiB · 503 no signing key, resource being deleted, or API server unavailable or misconfigured (with
    Retry-After, so that Anthropic delivers the event again).
    """

    def __init__(
        self,
        *,
        verifier: SignatureVerifier,
        store: EventStore,
        metrics: WebhookMetrics,
        bodies: BodyReader,
        retry_after_seconds: int,
    ) -> None:
        self._verifier = verifier
        self._store = store
        self._metrics = metrics
        self._bodies = bodies
        self._retry_after_seconds = retry_after_seconds
        self._rejections = RejectionLog()

    async def __call__(self, request: Request) -> Response:
        """Respond to a request."""
        started, received_at = time.perf_counter(), datetime.now(UTC)
        outcome = Outcome.FAILED
        event: SessionEvent | None = None
        try:
            event = await self._accept(request)
            outcome = Outcome.IGNORED if event is None else await self._record(event.at(received_at))
            return Response(status_code=204)
        except UnrecognizedEventError as error:
            outcome = Outcome.UNRECOGNIZED
            logger.warning(
                "acknowledged a signed event of unrecognized shape: %s",
                error,
                extra={"outcome": outcome.value},
            )
            return Response(status_code=204)
        except RequestRejected as rejection:
            outcome = rejection.outcome
            self._rejections.log(outcome, str(rejection), _fields(event))
            return self._reject(rejection.status, rejection.public)
        except Exception:
            logger.exception("request failed", extra=_fields(event))
            return self._reject(500, "internal error")
        finally:
            self._metrics.observe(outcome, time.perf_counter() - started)

    async def _accept(self, request: Request) -> SessionEvent | None:
        """Verify the request and return its event, or None if the event needs no record."""
        problem = header_problem(request.headers)
        try:
            async with self._bodies.read(request, keep=problem is None) as body:
                self._verifier.verify(body, request.headers)
                return parse_event(body)
        except BodyTooLargeError:
            raise RequestRejected(
                413, Outcome.TOO_LARGE, f"the body is larger than {MAX_BODY_BYTES} bytes"
            ) from None
        except BodyIncompleteError:
            raise RequestRejected(408, Outcome.INCOMPLETE, "the body did not arrive in time") from None
        except NoSigningKeyError:
            raise RequestRejected(
                503,
                Outcome.NO_SIGNING_KEY,
                "no signing key is configured yet",
                "no signing key: store it in the credential anthropic-webhook-signing-key",
            ) from None
        except CredentialError as error:
            raise RequestRejected(
                503, Outcome.NO_SIGNING_KEY, "the signing key cannot be read", str(error)
            ) from None
        except BadSignatureError as error:
            raise RequestRejected(
                401, Outcome.BAD_SIGNATURE, "the signature is missing or invalid", str(error)
            ) from None
        except InvalidEventError as error:
            raise RequestRejected(400, Outcome.INVALID_EVENT, f"not an event: {error}") from None

    async def _record(self, event: SessionEvent) -> Outcome:
        try:
            outcome = await self._store.record(event)
        except ResourceTerminatingError:
            raise RequestRejected(
                503, Outcome.TERMINATING, "the session's resource is being deleted; try again"
            ) from None
        except KubernetesUnavailableError as error:
            raise RequestRejected(
                503, Outcome.KUBERNETES_UNAVAILABLE, "the event cannot be recorded now; try again", str(error)
            ) from None
        except KubernetesMisconfiguredError as error:
            raise RequestRejected(
                503, Outcome.KUBERNETES_MISCONFIGURED, "the event cannot be recorded; try again", str(error)
            ) from None
        if event.starts_run and outcome in _WRITTEN:
            logger.info("routing work", extra={"outcome": outcome.value, **_fields(event)})
        else:
            logger.info("accepted event", extra={"outcome": outcome.value, **_fields(event)})
        return outcome

    def _reject(self, status: int, message: str) -> Response:
        headers = {"Retry-After": str(self._retry_after_seconds)} if status == 503 else None
        return JSONResponse({"error": message}, status_code=status, headers=headers)


def _fields(event: SessionEvent | None) -> dict[str, str]:
    """Return the fields that log lines have about a verified event."""
    if event is None:
        return {}
    return {
        "session": event.session_id,
        "event": event.event.id,
        "eventType": event.event.type,
        "resource": names.resource_name(event.session_id),
    }
