"""Defines the HTTP interface of the dashboard."""

from __future__ import annotations

import html
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from managed_session_dashboard.access import (
    Access,
    AccessUnknownError,
    ForbiddenError,
    Identity,
    TokenRejectedError,
)
from managed_session_dashboard.assets import Asset, load_assets
from managed_session_dashboard.feeds import SessionRows
from managed_session_dashboard.form import FormError, read_form
from managed_session_dashboard.metrics import DashboardMetrics, SignIn
from managed_session_dashboard.stream import Snapshots, Stream
from managed_session_dashboard.viewers import FailedSignIns, Viewer, Viewers

logger = logging.getLogger(__name__)

COOKIE = "managed-sessions-viewer"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_MAX_TOKEN = 16 * 1024


@dataclass(frozen=True)
class Parts:
    """What the interface needs."""

    access: Access
    viewers: Viewers
    failed: FailedSignIns
    snapshots: Snapshots
    sessions: SessionRows
    stream: Callable[..., Stream]
    metrics: DashboardMetrics
    namespace: str
    system_namespace: str


def dashboard_app(parts: Parts) -> ASGIApp:
    """Build the ASGI app.

    `GET /` is the page. It reads `/api/board`, `/api/stream`, `/api/viewer` and `/api/sessions/NAME`. All of
    these need the cookie that `POST /sign-in` sets; the form at `GET /sign-in` and the files below `/assets/`
    do not. All addresses in the page are relative, so that it may be served below a path.
    """
    pages = _Pages(parts)
    app = Starlette(
        routes=[
            Route("/", pages.index, methods=["GET"]),
            Route("/sign-in", pages.sign_in_form, methods=["GET"]),
            Route("/sign-in", pages.sign_in, methods=["POST"]),
            Route("/sign-out", pages.sign_out, methods=["POST"]),
            Route("/assets/{name}", pages.asset, methods=["GET"]),
            Route("/api/viewer", pages.viewer, methods=["GET"]),
            Route("/api/board", pages.board, methods=["GET"]),
            Route("/api/stream", pages.stream, methods=["GET"]),
            Route("/api/sessions/{name}", pages.session, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _error},
    )
    app.router.redirect_slashes = False
    return _SecurityHeaders(app)


class _SecurityHeaders:
    """Adds the headers that every response has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                missing = [] if b"cache-control" in present else [(b"cache-control", b"no-store")]
                message["headers"] = [*message["headers"], *self._added, *missing]
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _error(_: Request, error: Exception) -> Response:
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    message = {401: "sign in", 404: "not found", 405: "method not allowed"}.get(status, "error")
    return JSONResponse({"error": message}, status_code=status, headers=headers)


class _Pages:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._assets = load_assets()
        self._form = self._assets["sign-in.html"].content.decode()

    async def index(self, request: Request) -> Response:
        if await self._viewer(request) is None:
            return Response(status_code=303, headers={"Location": "sign-in"})
        return _file(request, self._assets["index.html"], cache="no-store")

    async def asset(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["name"])
        if asset is None or asset.media_type.startswith("text/html"):
            raise HTTPException(404)
        return _file(request, asset, cache="no-cache")

    async def viewer(self, request: Request) -> Response:
        viewer = await self._require(request)
        return JSONResponse({"user": viewer.identity.name, "endsAt": viewer.ends_at})

    async def board(self, request: Request) -> Response:
        await self._require(request)
        content = await self._parts.snapshots.content()
        return Response(
            content,
            media_type="application/json",
            headers={"Content-Encoding": "gzip", "Vary": "Accept-Encoding"},
        )

    async def session(self, request: Request) -> Response:
        await self._require(request)
        found = self._parts.sessions.find(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return JSONResponse(found)

    async def stream(self, request: Request) -> Response:
        viewer = await self._require(request)

        async def is_valid() -> bool:
            return await self._parts.viewers.is_valid(viewer)

        stream = self._parts.stream(
            position=request.headers.get("last-event-id") or request.query_params.get("since", ""),
            session=request.query_params.get("session", ""),
            is_valid=is_valid,
        )

        async def events() -> AsyncIterator[str]:
            with self._parts.metrics.viewers.track_inprogress():
                async for event in stream.events():
                    yield event

        return StreamingResponse(
            events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def sign_in_form(self, request: Request) -> Response:
        if await self._viewer(request) is not None:
            return Response(status_code=303, headers={"Location": "./"})
        return self._sign_in_page(None, 200)

    async def sign_in(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return self._refuse(SignIn.REJECTED, 403, "Sign in on this page, not from another site.")
        if not self._parts.failed.may_try(address):
            return self._refuse(
                SignIn.LIMITED, 429, "Too many failed sign-ins. Wait a minute, then try again."
            )
        try:
            token = (await read_form(request, limit=_MAX_TOKEN + 1024)).get("token", "").strip()
            if not token or len(token) > _MAX_TOKEN or not token.isprintable():
                raise TokenRejectedError
            identity = await self._parts.access.sign_in(SecretStr(token))
        except FormError:
            return self._refuse(SignIn.REJECTED, 400, "The form did not arrive whole. Try again.")
        except TokenRejectedError:
            await self._parts.failed.note(address)
            return self._refuse(
                SignIn.REJECTED,
                401,
                "The cluster does not accept this token. It may have expired; get a new one.",
            )
        except ForbiddenError as error:
            await self._parts.failed.note(address)
            return self._refuse(
                SignIn.FORBIDDEN,
                403,
                f"{error} may not list ManagedSessions in the namespace {self._parts.namespace}. Ask for the "
                "ClusterRole managed-sessions-view in it.",
            )
        except AccessUnknownError as error:
            return self._refuse(SignIn.UNAVAILABLE, 503, str(error))
        return self._accept(request, identity)

    def _accept(self, request: Request, identity: Identity) -> Response:
        cookie, valid_seconds = self._parts.viewers.add(identity)
        self._parts.metrics.signed_in(SignIn.ACCEPTED)
        logger.info("signed in", extra={"user": identity.name})
        answer = Response(status_code=303, headers={"Location": "./"})
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=valid_seconds,
            httponly=True,
            samesite="strict",
            # What the browser has sent over TLS, possibly to a proxy in front.
            secure=request.headers.get("origin", "").startswith("https://"),
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        self._parts.viewers.remove(request.cookies.get(COOKIE, ""))
        answer = Response(status_code=303, headers={"Location": "sign-in"})
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def _refuse(self, outcome: SignIn, status: int, problem: str) -> Response:
        self._parts.metrics.signed_in(outcome)
        logger.warning("sign-in refused", extra={"outcome": outcome.value})
        return self._sign_in_page(problem, status)

    def _sign_in_page(self, problem: str | None, status: int) -> Response:
        shown = f'<p class="problem" role="alert">{html.escape(problem)}</p>' if problem else ""
        text = self._form.replace("<!-- problem -->", shown)
        text = text.replace("<!-- namespace -->", html.escape(self._parts.namespace))
        text = text.replace("<!-- system namespace -->", html.escape(self._parts.system_namespace))
        headers = {"Retry-After": "60"} if status == 429 else None
        return Response(text, status_code=status, media_type="text/html; charset=utf-8", headers=headers)

    async def _viewer(self, request: Request) -> Viewer | None:
        return await self._parts.viewers.find(request.cookies.get(COOKIE, ""))

    async def _require(self, request: Request) -> Viewer:
        viewer = await self._viewer(request)
        if viewer is None:
            raise HTTPException(401)
        return viewer


def _file(request: Request, asset: Asset, *, cache: str) -> Response:
    headers = {"ETag": asset.etag, "Cache-Control": cache, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    content = asset.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = asset.compressed, "gzip"
    return Response(content, media_type=asset.media_type, headers=headers)
