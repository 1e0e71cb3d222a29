"""Credentials: who is calling, and what each kind may do."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from managed_session_devkit.simulators.anthropic.errors import APIError

Kind = Literal["environment_key", "sessions_token", "api_key"]

ENVIRONMENT_KEY: Kind = "environment_key"
TOKEN_PREFIX = "sk-ant-sid01-"  # noqa: S105 - the prefix of every session token
SESSIONS_TOKEN: Kind = "sessions_token"  # noqa: S105 - the name of a kind
API_KEY: Kind = "api_key"


@dataclass(frozen=True)
class Credential:
    """A recognized credential.

    Attributes:
        kind: environment key, session token or API key.
        name: short fingerprint for the ledger, never the secret itself.
        environment_id: the one environment of an environment key or session token.
        session_id: the one session of a session token.
        expires_at: monotonic time of expiry, or None.
    """

    kind: Kind
    name: str
    environment_id: str | None = None
    session_id: str | None = None
    expires_at: float | None = None


def fingerprint(secret: str) -> str:
    """Return a short name of a secret that does not reveal it."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


class CredentialStore:
    """All credentials that the simulated organization has issued."""

    def __init__(self) -> None:
        self._known: dict[str, Credential] = {}

    def add_environment_key(self, key: str, environment_id: str) -> None:
        """Accept this key for workers of the environment."""
        self._known[key] = Credential(ENVIRONMENT_KEY, fingerprint(key), environment_id)

    def add_api_key(self, key: str) -> None:
        """Accept this key for the organization."""
        self._known[key] = Credential(API_KEY, fingerprint(key))

    def revoke(self, secret: str) -> None:
        """Revoke a credential from the next call on."""
        self._known.pop(secret, None)

    def revoke_tokens_of(self, session_id: str) -> None:
        """Revoke every session token of a session."""
        self._known = {
            secret: known
            for secret, known in self._known.items()
            if known.kind != SESSIONS_TOKEN or known.session_id != session_id
        }

    def issue_work_secret(self, environment_id: str, session_id: str, lifetime_seconds: float | None) -> str:
        """Return an offer's ``secret`` with a new token: JSON in URL-safe base64 without padding."""
        token = f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}"
        expires_at = None if lifetime_seconds is None else time.monotonic() + lifetime_seconds
        self._known[token] = Credential(
            SESSIONS_TOKEN, fingerprint(token), environment_id, session_id, expires_at
        )
        bundle = {
            "sessions_token": token,
            "ingress_token": secrets.token_urlsafe(16),
            "source_token": secrets.token_urlsafe(16),
        }
        return base64.urlsafe_b64encode(json.dumps(bundle).encode()).decode().rstrip("=")

    def identify(self, headers: Mapping[str, str], accepts: frozenset[Kind]) -> Credential:
        """Return the caller's credential.

        Raises:
            APIError: 401 for a missing, unknown or expired credential, 403 for a kind that the operation does
                not accept.
        """
        authorization = headers.get("authorization", "")
        bearer = authorization[7:].strip() if authorization[:7].lower() == "bearer " else ""
        header_key = headers.get("x-api-key", "")
        if not bearer and API_KEY not in accepts:
            raise APIError(401, "Missing Authorization header")
        secret = bearer or header_key
        if not secret:
            raise APIError(401, "x-api-key or Authorization header is required")
        credential = self._known.get(secret)
        if credential is None or (not bearer and credential.kind != API_KEY):
            raise APIError(401, "invalid bearer token" if bearer else "invalid x-api-key")
        if credential.expires_at is not None and time.monotonic() >= credential.expires_at:
            raise APIError(401, "token has expired")
        if credential.kind not in accepts:
            wanted = " or ".join(sorted(kind.replace("_", " ") for kind in accepts))
            raise APIError(403, f"This endpoint does not accept this credential; use: {wanted}")
        return credential
