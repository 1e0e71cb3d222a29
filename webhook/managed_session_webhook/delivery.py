"""One delivery, from the request to the answer."""

from __future__ import annotations

import logging
import time

from managed_session_api import names
from managed_session_runtime.credentials import CredentialError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from managed_session_webhook.body import (
    MAX_BODY_BYTES,
    BodyIncompleteError,
    BodyReader,
    BodyTooLargeError,
)
from managed_session_webhook.events import InvalidEventError, SessionEvent, parse_event
from managed_session_webhook.metrics import Outcome, WebhookMetrics
from managed_session_webhook.recorder import EventRecorder, ResourceTerminatingError
from managed_session_webhook.refusals import RefusalLog
from managed_session_webhook.session_api import KubernetesMisconfiguredError, KubernetesUnavailableError
from managed_session_webhook.signature import (
    BadSignatureError,
    NoSigningKeyError,
    SignatureVerifier,
    header_problem,
)

_logger = logging.getLogger(__name__)

_WRITTEN = frozenset({Outcome.CREATED, Outcome.NOTED})


class _RefusedError(Exception):
    """The request is not accepted: the answer, and the reason for the log."""

    def __init__(self, status: int, outcome: Outcome, public: str, reason: str | None = None) -> None:
        super().__init__(reason or public)
        self.status = status
        self.outcome = outcome
        self.public = public


class DeliveryEndpoint:
    """`POST /webhook`: 204 when the event is recorded or needs no record, otherwise an error in JSON.

    413 body above 1 MiB · 408 body not complete in time · 503 no signing key, resource being deleted, API
    server unavailable or refusing (with Retry-After, so that the event is delivered again) · 401 not signed
    by Anthropic · 400 signed and not an event.
    """

    def __init__(
        self,
        *,
        verifier: SignatureVerifier,
        recorder: EventRecorder,
        metrics: WebhookMetrics,
        bodies: BodyReader,
        retry_after_seconds: int,
    ) -> None:
        self._verifier = verifier
        self._recorder = recorder
        self._metrics = metrics
        self._bodies = bodies
        self._retry_after_seconds = retry_after_seconds
        self._refusals = RefusalLog()

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        started = time.perf_counter()
        outcome = Outcome.FAILED
        event: SessionEvent | None = None
        try:
            event = await self._accept(request)
            outcome = Outcome.UNINTERESTING if event is None else await self._record(event)
            return Response(status_code=204)
        except _RefusedError as refusal:
            outcome = refusal.outcome
            self._refusals.log(outcome, str(refusal), _fields(event))
            return self._refuse(refusal.status, refusal.public)
        except Exception:
            _logger.exception("request failed", extra=_fields(event))
            return self._refuse(500, "internal error")
        finally:
            self._metrics.observe(outcome, time.perf_counter() - started)

    async def _accept(self, request: Request) -> SessionEvent | None:
        """The event that the request proves to be Anthropic's, or None for one that needs no record."""
        hopeless = header_problem(request.headers)
        try:
            async with self._bodies.read(request, keep=hopeless is None) as body:
                self._verifier.verify(body, request.headers)
                return parse_event(body)
        except BodyTooLargeError:
            raise _RefusedError(
                413, Outcome.TOO_LARGE, f"the body is longer than {MAX_BODY_BYTES} bytes"
            ) from None
        except BodyIncompleteError:
            raise _RefusedError(408, Outcome.INCOMPLETE, "the body did not arrive in time") from None
        except NoSigningKeyError:
            raise _RefusedError(
                503,
                Outcome.NO_SIGNING_KEY,
                "no signing key is configured yet",
                "no signing key: put it into the credential anthropic-webhook-signing-key",
            ) from None
        except CredentialError as error:
            raise _RefusedError(
                503, Outcome.NO_SIGNING_KEY, "the signing key cannot be read", str(error)
            ) from None
        except BadSignatureError as error:
            raise _RefusedError(
                401, Outcome.BAD_SIGNATURE, "the signature is missing or not valid", str(error)
            ) from None
        except InvalidEventError as error:
            raise _RefusedError(400, Outcome.INVALID_EVENT, f"not an event: {error}") from None

    async def _record(self, event: SessionEvent) -> Outcome:
        try:
            outcome = await self._recorder.record(event)
        except ResourceTerminatingError:
            raise _RefusedError(
                503, Outcome.TERMINATING, "the session's resource is being deleted; try again"
            ) from None
        except KubernetesUnavailableError as error:
            raise _RefusedError(
                503, Outcome.KUBERNETES_UNAVAILABLE, "the event cannot be recorded now; try again", str(error)
            ) from None
        except KubernetesMisconfiguredError as error:
            raise _RefusedError(
                503, Outcome.KUBERNETES_MISCONFIGURED, "the event cannot be recorded; try again", str(error)
            ) from None
        if event.starts_run and outcome in _WRITTEN:
            _logger.info("routing work", extra={"outcome": outcome.value, **_fields(event)})
        else:
            _logger.info("accepted event", extra={"outcome": outcome.value, **_fields(event)})
        return outcome

    def _refuse(self, status: int, message: str) -> Response:
        headers = {"Retry-After": str(self._retry_after_seconds)} if status == 503 else None
        return JSONResponse({"error": message}, status_code=status, headers=headers)


def _fields(event: SessionEvent | None) -> dict[str, str]:
    """What a log line says about a proven event."""
    if event is None:
        return {}
    return {
        "session": event.session_id,
        "event": event.event.id,
        "eventType": event.event.type,
        "resource": names.resource_name(event.session_id),
    }
