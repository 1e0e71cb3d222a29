"""Errors in the format of Anthropic's API: ``{"type": "error", "error": {…}, "request_id"}``."""

from __future__ import annotations

from typing import Any

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    412: "precondition_failed_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class APIError(Exception):
    """An error answer.

    Attributes:
        status: HTTP status.
        details: content of ``error.details``, if the error type has it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = kind or _TYPES.get(status, "api_error")
        self.details = details

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the JSON body."""
        error: dict[str, Any] = {"type": self.type, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return {"type": "error", "error": error, "request_id": request_id}


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """Return the body of a plain error answer with this status."""
    return APIError(status, message).body(request_id)
