"""Decides who may see the page: whoever the cluster lets list ManagedSessions, or holds the static token."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from kubernetes.aio.config import ConfigException
from managed_session_api import names
from managed_session_api.credentials import Credential
from managed_session_runtime.credentials import CredentialDirectory, CredentialError
from managed_session_runtime.kubernetes_client import ApiServerSession
from pydantic import SecretStr

logger = logging.getLogger(__name__)

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class AccessUnknownError(Exception):
    """It cannot be decided now. The text says why, and is for people who are not signed in."""


class TokenRejectedError(Exception):
    """The token is not valid."""


class ForbiddenError(Exception):
    """The token is valid, but its user may not list ManagedSessions. The text names the user."""


@dataclass(frozen=True)
class Identity:
    """Who has signed in. Holds no token.

    Attributes:
        user: what a TokenReview has said about the user; empty for the static token.
        static: digest of the static token; empty for users of the cluster.
        expires_at: when the token expires, seconds since the epoch; None if that is not known.
    """

    user: Mapping[str, Any] = field(default_factory=dict)
    static: bytes = b""
    expires_at: float | None = None

    @property
    def name(self) -> str:
        """The user's name, for the page and the log."""
        return str(self.user.get("username") or "static token")


class Access:
    """Checks tokens and rights with the API server, at most `concurrent` calls at once.

    Args:
        api: session for the API server.
        namespace: namespace of the resources.
        credentials: has the static token, if there is one.
        timeout_seconds: timeout of one call.
        concurrent: maximum number of calls at once.
        user_agent: name in the API server's audit log.
    """

    def __init__(
        self,
        api: ApiServerSession,
        namespace: str,
        credentials: CredentialDirectory,
        *,
        timeout_seconds: float,
        concurrent: int,
        user_agent: str,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(concurrent)
        self._headers = {"Accept": "application/json", "User-Agent": user_agent}

    async def sign_in(self, token: SecretStr) -> Identity:
        """Return whose token this is.

        Raises:
            TokenRejectedError: it is not valid.
            ForbiddenError: its user may not list ManagedSessions.
            AccessUnknownError: that cannot be checked now.
        """
        digest = _digest(token)
        if any(hmac.compare_digest(digest, known) for known in self._static_digests()):
            return Identity(static=digest)
        user = await self._review_token(token)
        identity = Identity(user=user, expires_at=expiry_of(token))
        if not await self._may_list(identity):
            raise ForbiddenError(identity.name)
        return identity

    async def still_allowed(self, identity: Identity) -> bool:
        """Return whether someone who has signed in may still see the page.

        Raises:
            AccessUnknownError: that cannot be checked now.
        """
        if identity.static:
            return any(hmac.compare_digest(identity.static, known) for known in self._static_digests())
        return await self._may_list(identity)

    def _static_digests(self) -> list[bytes]:
        try:
            return [_digest(each) for each in self._credentials.get_all(Credential.DASHBOARD_TOKEN)]
        except CredentialError as error:
            logger.warning("the static token is not accepted: %s", error)
            return []

    async def _review_token(self, token: SecretStr) -> Mapping[str, Any]:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token.get_secret_value()},
        }
        status = await self._review(_TOKEN_REVIEWS, review)
        user = status.get("user")
        if status.get("authenticated") is not True or not isinstance(user, Mapping):
            raise TokenRejectedError
        return user

    async def _may_list(self, identity: Identity) -> bool:
        user = identity.user
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.get("username", ""),
                "groups": user.get("groups") or [],
                "uid": user.get("uid", ""),
                "extra": user.get("extra") or {},
                "resourceAttributes": {
                    "verb": "list",
                    "group": names.GROUP,
                    "resource": names.PLURAL,
                    "namespace": self._namespace,
                },
            },
        }
        return (await self._review(_ACCESS_REVIEWS, review)).get("allowed") is True

    async def _review(self, path: str, review: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create a review and return its status. No error quotes what was sent or answered."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        kind = review["kind"]
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._slots,
                self._api.session.post(
                    f"{self._api.url}{path}", json=review, headers=self._headers, timeout=timeout
                ) as answer,
            ):
                code, content = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError, ConfigException) as error:
            raise AccessUnknownError(
                f"The API server cannot be reached ({type(error).__name__}). Try again."
            ) from None
        if code == 403:
            raise AccessUnknownError(
                f"The dashboard may not create a {kind}. Apply the ClusterRoleBinding of deploy/dashboard, "
                "or sign in with the static token."
            )
        status = _status(content)
        if code != 201 or status is None:
            raise AccessUnknownError(f"The API server answered {code} to a {kind}. Try again.")
        return status


def _status(content: bytes) -> Mapping[str, Any] | None:
    try:
        status = json.loads(content)["status"]
    except (ValueError, KeyError, TypeError):
        return None
    return status if isinstance(status, Mapping) else None


def _digest(token: SecretStr) -> bytes:
    return hashlib.sha256(token.get_secret_value().encode()).digest()


def expiry_of(token: SecretStr) -> float | None:
    """Return when a JSON Web Token expires, seconds since the epoch; None for other tokens."""
    parts = token.get_secret_value().split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
