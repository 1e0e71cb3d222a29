"""Defines the HTTP interface of the webhook."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from managed_session_api.credentials import Credential
from managed_session_runtime.api_server_requests import Body
from managed_session_runtime.credentials import CredentialDirectory, CredentialError
from managed_session_runtime.kubernetes_errors import KubernetesMisconfiguredError, KubernetesUnavailableError
from managed_session_runtime.managed_session_client import ManagedSessionClient
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_webhook.delivery import DeliveryEndpoint
from managed_session_webhook.readiness import KubernetesReadiness
from managed_session_webhook.signature import NoSigningKeyError, SignatureVerifier


def webhook_app(
    *,
    delivery: DeliveryEndpoint,
    verifier: SignatureVerifier,
    credentials: CredentialDirectory,
    api: ManagedSessionClient,
    readiness: KubernetesReadiness,
) -> Starlette:
    """Build the ASGI app with `POST /webhook`, `GET /health` and `GET /sandboxes`.

    `GET /` answers the health checks of load balancers: by default, those of Google and Azure request it on
    the serving port and expect 200.
    """

    async def health(_: Request) -> Response:
        try:
            signing_key = bool(verifier.keys())
        except (NoSigningKeyError, CredentialError):
            signing_key = False
        return JSONResponse({"ok": True, "signingKey": signing_key, "kubernetes": readiness.reachable})

    async def alive(_: Request) -> Response:
        return JSONResponse({"ok": True})

    async def deliver(request: Request) -> Response:
        return await delivery(request)

    app = Starlette(
        routes=[
            Route("/", alive, methods=["GET"]),
            Route("/webhook", deliver, methods=["POST"]),
            # Anthropic disables endpoints that redirect, so a trailing slash is served directly.
            Route("/webhook/", deliver, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
            Route("/sandboxes", _sandboxes(api, credentials), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _error},
    )
    app.router.redirect_slashes = False
    return app


async def _error(_: Request, error: Exception) -> Response:
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    message = {404: "not found", 405: "method not allowed"}.get(status, "error")
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def _sandboxes(
    api: ManagedSessionClient, credentials: CredentialDirectory
) -> Callable[[Request], Awaitable[Response]]:
    async def sandboxes(request: Request) -> Response:
        """List the sandbox of each session. Requires the admin token."""
        try:
            tokens = credentials.get_all(Credential.WEBHOOK_ADMIN_TOKEN)
        except CredentialError:
            return JSONResponse({"error": "the admin token cannot be read"}, status_code=503)
        if not tokens:
            return JSONResponse({"error": "not found"}, status_code=404)
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        matches = [
            hmac.compare_digest(presented.strip().encode(), token.get_secret_value().encode())
            for token in tokens
        ]
        if scheme.lower() != "bearer" or not any(matches):
            return JSONResponse(
                {"error": "the admin token is required"},
                status_code=401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        try:
            found = [_assignment(resource) async for resource in api.list_all()]
        except (KubernetesUnavailableError, KubernetesMisconfiguredError) as error:
            return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "5"})
        return JSONResponse({"sandboxes": found})

    return sandboxes


def _assignment(resource: Body) -> dict[str, Any]:
    status = resource.get("status", {})
    sandbox = status.get("sandbox", {})
    return {
        "name": resource["metadata"]["name"],
        "sessionID": resource["spec"]["sessionID"],
        "sandboxID": sandbox.get("id"),
        "state": sandbox.get("state"),
        "phase": status.get("phase"),
    }
