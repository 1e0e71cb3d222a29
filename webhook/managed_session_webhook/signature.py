"""Verifies the signatures of deliveries with the Standard Webhooks library, which Anthropic's SDK uses too.

`client.beta.webhooks.unwrap` of the SDK calls `standardwebhooks.Webhook(key).verify` and then parses the body
without validation. The webhook validates the body itself, so it calls only the former.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from managed_session_api.credentials import Credential
from managed_session_runtime.credentials import CredentialDirectory
from standardwebhooks import Webhook

logger = logging.getLogger(__name__)

_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
_TOLERANCE_SECONDS = 300
"""The library's own limit, also checked here so that an old request is rejected before its body is read."""
_URL_SAFE = str.maketrans("-_", "+/")


class NoSigningKeyError(Exception):
    """No usable signing key is configured."""


class BadSignatureError(Exception):
    """The request is not proven to come from Anthropic. The text says why, for the log."""


class SignatureVerifier:
    """Verifies requests with all signing keys in the credential directory, which is read for each request."""

    def __init__(self, credentials: CredentialDirectory) -> None:
        self._credentials = credentials
        self._known: tuple[tuple[str, ...], list[Webhook]] = ((), [])

    def keys(self) -> list[Webhook]:
        """Return the usable signing keys, in the file's order.

        Raises:
            NoSigningKeyError: no key is usable.
            CredentialUnreadableError: the file cannot be read.
        """
        secrets = tuple(
            secret.get_secret_value()
            for secret in self._credentials.get_all(Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY)
        )
        if secrets != self._known[0]:
            self._known = (secrets, self._parse(secrets))
        if not self._known[1]:
            raise NoSigningKeyError
        return self._known[1]

    def verify(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Verify that one of the keys signed `body`.

        Raises:
            BadSignatureError: no key did, or the headers are missing, malformed or too old.
            NoSigningKeyError: no key is usable.
            CredentialUnreadableError: the key's file cannot be read.
        """
        keys = self.keys()
        problem = header_problem(headers)
        if problem is not None:
            raise BadSignatureError(problem)
        presented = {name: headers[name] for name in _HEADERS}
        for key in keys:
            try:
                key.verify(body, presented, json_parse=False)
            except Exception as error:  # noqa: BLE001 - malformed headers raise various errors
                logger.debug("signing key does not match: %s", type(error).__name__)
                continue
            return
        raise BadSignatureError("no signing key matches the signature")

    def _parse(self, secrets: tuple[str, ...]) -> list[Webhook]:
        keys = []
        for number, secret in enumerate(secrets, 1):
            prefix = "whsec_" if secret.startswith("whsec_") else ""
            try:
                keys.append(Webhook(secret.removeprefix(prefix).translate(_URL_SAFE)))
            except Exception as error:  # noqa: BLE001 - the library raises various errors for a bad secret
                logger.error(  # noqa: TRY400 - a traceback could show the secret
                    "line %d of credential %s is not a signing key (%s): copy it again from the Console",
                    number,
                    Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY.value,
                    type(error).__name__,
                )
        return keys


def header_problem(headers: Mapping[str, str], now: float | None = None) -> str | None:
    """Return why the headers alone are reason to reject the request, or None. Needs no key."""
    missing = [name for name in _HEADERS if not headers.get(name)]
    if missing:
        return f"missing header {', '.join(missing)}"
    try:
        age = (time.time() if now is None else now) - float(headers["webhook-timestamp"])
    except ValueError:
        return "malformed header webhook-timestamp"
    if not abs(age) <= _TOLERANCE_SECONDS:
        return "header webhook-timestamp differs from the time by more than five minutes"
    return None
