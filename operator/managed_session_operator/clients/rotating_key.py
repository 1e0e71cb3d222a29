"""A key of which several values may be valid at once, while it is being replaced at its cloud."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator

import httpx2
from managed_session_runtime.credentials import CredentialError
from pydantic import SecretStr

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0
"""How long a refused value stands behind the others; then it is tried first again, if it is before them."""

PLACEHOLDER = "put-in-by-the-rotation"
"""What the SDK is given for a key; `KeyAuth` replaces it in each request."""


class RotatingKey:
    """The lines of a credential, newest first, and which of them were refused lately.

    Every call uses the first line that was not refused. So a new key may be written down before it is valid,
    and an old one be revoked at any moment while both are there; whatever one line has begun another may end,
    since both are keys of the same thing.

    Args:
        name: the credential's, for the log.
        values: reads the lines afresh; raises where there must be one and is none.
        report: called with the line that is in use, from 1 on, or 0 when every line is refused.
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
        """All lines in the order in which to try them: first those that were not refused lately.

        Raises:
            CredentialError: there is none, or the file cannot be read.
        """
        values = self._values()
        now = time.monotonic()
        self._refused = {key: at for key, at in self._refused.items() if key in values}
        return sorted(
            values, key=lambda value: self._refused.get(value, -AGAIN_SECONDS) + AGAIN_SECONDS > now
        )

    def lines(self) -> tuple[SecretStr, ...]:
        """What is written down now, to notice a change; empty also where it can't be read."""
        try:
            return tuple(self._values())
        except CredentialError:
            return ()

    def current(self) -> SecretStr:
        """The line to use (raises as `candidates`, and where there is no line LookupError)."""
        return next(iter(self.candidates()))

    def accepted(self, value: SecretStr) -> None:
        """The cloud knows this line."""
        self._refused.pop(value, None)
        self._accepted = value
        self._in_use(value)

    def refused(self, value: SecretStr) -> bool:
        """The cloud does not know this line; whether there is another one that it may know."""
        if value == self._accepted:
            # It did until now: what it said of the others is no news any more.
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
        said = {"credential": self._name, "line": line, "lines": len(values)}
        if line == 0:
            logger.warning("every line of a credential is refused", extra=said)
        elif line > 1:
            logger.warning("a credential's first line is refused, a later one is in use", extra=said)
        elif before is not None:
            logger.info("a credential's first line is in use", extra=said)


def _is_about_the_key(request: httpx2.Request, response: httpx2.Response) -> bool:
    """Whether the answer refuses the key, not what was asked with it.

    A session may be forbidden to a key that is good; the environment only to the key of another one.
    """
    if response.status_code == httpx2.codes.FORBIDDEN:
        return "/environments/" in request.url.path
    return response.status_code == httpx2.codes.UNAUTHORIZED


class KeyAuth(httpx2.Auth):
    """Sends each request with the line to use, and again with the next one where that line is refused.

    A request that was refused has had no effect, so every request may be repeated.
    """

    def __init__(self, key: RotatingKey) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Yield what to send, and take the answers, as httpx asks."""
        places = [name for name, value in request.headers.items() if PLACEHOLDER in value]
        templates = {name: request.headers[name] for name in places}
        for value in self._key.candidates():
            for name, template in templates.items():
                request.headers[name] = template.replace(PLACEHOLDER, value.get_secret_value())
            response = yield request
            if _is_about_the_key(request, response):
                self._key.refused(value)
                continue
            if not response.is_server_error:
                self._key.accepted(value)
            return
