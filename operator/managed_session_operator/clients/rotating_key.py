"""A key that may have several values while it is being rotated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from http import HTTPStatus

import httpx2
from managed_session_runtime.credentials import CredentialError
from pydantic import SecretStr

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0
"""Seconds for which a rejected value is tried after the others. Then the file's order applies again."""

PLACEHOLDER = "replaced-by-key-auth"
"""Passed to the SDK as the key. `KeyAuth` replaces it in each request."""


class RotatingKey:
    """The lines of a credential, newest first, and which of them were recently rejected.

    Every call uses the first line that was not rejected. A new key can therefore be stored before it is
    valid, and the old one can be revoked at any time while both are stored. A call may finish what another
    line began, because all lines are keys of the same account.

    Args:
        name: name of the credential, for the log.
        values: reads the lines. Raises if a line is required and there is none.
        report: called with the number of the line in use, from 1, or with 0 if all lines are rejected.
    """

    def __init__(
        self,
        name: str,
        values: Callable[[], list[SecretStr]],
        report: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._name = name
        self._values = values
        self._report = report
        self._refused: dict[SecretStr, float] = {}
        self._accepted: SecretStr | None = None
        self._line: int | None = None

    def candidates(self) -> list[SecretStr]:
        """Return all lines in the order to try them: recently rejected ones last.

        Raises:
            CredentialError: there is no line, or the file cannot be read.
        """
        values = self._values()
        now = time.monotonic()
        self._refused = {key: at for key, at in self._refused.items() if key in values}
        return sorted(
            values, key=lambda value: self._refused.get(value, -AGAIN_SECONDS) + AGAIN_SECONDS > now
        )

    def lines(self) -> tuple[SecretStr, ...]:
        """Return the current lines, to detect changes; empty if they cannot be read."""
        try:
            return tuple(self._values())
        except CredentialError:
            return ()

    def current(self) -> SecretStr:
        """Return the line to use (raises as `candidates`, and LookupError if there is no line)."""
        return next(iter(self.candidates()))

    def accepted(self, value: SecretStr) -> None:
        """Record that the cloud accepts this line."""
        self._refused.pop(value, None)
        self._accepted = value
        self._in_use(value)

    def refused(self, value: SecretStr) -> bool:
        """Record that the cloud rejects this line. Return whether another line may work."""
        if value == self._accepted:
            # This line worked until now, so what is known about the others is outdated.
            self._refused.clear()
            self._accepted = None
        self._refused[value] = time.monotonic()
        others = [each for each in self.candidates() if each not in self._refused]
        if not others:
            self._in_use(None)
        return bool(others)

    def _in_use(self, value: SecretStr | None) -> None:
        values = self._values()
        line = values.index(value) + 1 if value is not None and value in values else 0
        if line == self._line:
            return
        before, self._line = self._line, line
        self._report(line)
        fields = {"credential": self._name, "line": line, "lines": len(values)}
        if line == 0:
            logger.warning("all lines of a credential are rejected", extra=fields)
        elif line > 1:
            logger.warning("the first line of a credential is rejected; a later line is in use", extra=fields)
        elif before is not None:
            logger.info("the first line of a credential is in use", extra=fields)


def is_about_the_key(status: int, path: str) -> bool:
    """Whether a response to a request for `path` rejects the key and not the request.

    A valid key may be forbidden to access a session. Only a key of another environment is forbidden to access
    the environment.
    """
    if status == HTTPStatus.FORBIDDEN:
        return "/environments/" in path
    return status == HTTPStatus.UNAUTHORIZED


class KeyAuth(httpx2.Auth):
    """Sends each request with the line to use, and repeats it with the next line if that one is rejected.

    A rejected request has no effect, so every request can be repeated.
    """

    def __init__(self, key: RotatingKey) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Yield requests and receive responses, as httpx requires."""
        headers = [name for name, value in request.headers.items() if PLACEHOLDER in value]
        templates = {name: request.headers[name] for name in headers}
        for value in self._key.candidates():
            for name, template in templates.items():
                request.headers[name] = template.replace(PLACEHOLDER, value.get_secret_value())
            response = yield request
            if is_about_the_key(response.status_code, request.url.path):
                self._key.refused(value)
                continue
            if not response.is_server_error:
                self._key.accepted(value)
            return
