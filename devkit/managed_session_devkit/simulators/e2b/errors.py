"""Errors in the formats that clients of E2B see."""

from typing import Any

from starlette.responses import JSONResponse, Response

_CONNECT_STATUS = {
    "canceled": 499,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "unauthenticated": 401,
}


class SimulatedError(Exception):
    """An error answer of E2B."""

    def response(self) -> Response:
        """The HTTP response."""
        raise NotImplementedError


class ApiError(SimulatedError):
    """An error of the control plane: `{"code", "message"[, "error_code"]}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error_code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error_code = error_code
        self.headers = headers

    def response(self) -> Response:
        """The HTTP response."""
        body: dict[str, Any] = {"code": self.status, "message": self.message}
        if self.error_code is not None:
            body["error_code"] = self.error_code
        return JSONResponse(body, self.status, self.headers)


class ProxyError(SimulatedError):
    """An error of the proxy in front of sandboxes: `{"sandboxId", "message", "code"[, "port"]}`."""

    def __init__(self, status: int, sandbox_id: str, message: str, port: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"sandboxId": sandbox_id, "message": message, "code": status}
        if port is not None:
            self.body["port"] = port

    def response(self) -> Response:
        """The HTTP response."""
        return JSONResponse(self.body, self.status)


class ConnectError(SimulatedError):
    """An error of envd's RPCs: `{"code": "not_found", "message"}` with the Connect protocol's HTTP status."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def as_json(self) -> dict[str, str]:
        """Return the error object of a unary answer's body or a stream's last frame."""
        return {"code": self.code, "message": self.message}

    def response(self) -> Response:
        """Return the HTTP response of a unary call."""
        return JSONResponse(self.as_json(), _CONNECT_STATUS.get(self.code, 500))


class FileError(SimulatedError):
    """An error of envd's /files: `{"code": 404, "message"}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def response(self) -> Response:
        """The HTTP response."""
        return JSONResponse({"code": self.status, "message": self.message}, self.status)
