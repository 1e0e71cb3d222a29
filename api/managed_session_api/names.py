"""Names that webhook, operator, manifests and users share.

Everything of ours in a cluster or in E2B carries the one domain `managedagents.dev`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

DOMAIN = "managedagents.dev"
GROUP = DOMAIN
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ManagedSession"
PLURAL = "managedsessions"
SINGULAR = "managedsession"
SHORT_NAME = "msess"

FINALIZER = f"{DOMAIN}/sandbox"
"""Held while a sandbox of the resource may exist."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "managed-sessions"
ANNOTATION_CLAIM = f"{DOMAIN}/claim"
"""On a session token's Secret: the claim (`status.work.claim`) that the token serves."""

ANNOTATION_IDENTITY = f"{DOMAIN}/identity"
"""On a resource: what its sandboxes carry as METADATA_RESOURCE_UID. It outlives the resource in a backup."""

METADATA_INSTALLATION = f"{DOMAIN}/installation"
METADATA_RESOURCE_UID = f"{DOMAIN}/resource-uid"
METADATA_SESSION = f"{DOMAIN}/session"
METADATA_ATTEMPT = f"{DOMAIN}/attempt"
"""Keys of an E2B sandbox's metadata (strings; set once, at create)."""

RESOURCE_NAMESPACE = "managed-sessions"
SYSTEM_NAMESPACE = "managed-sessions-system"

SESSION_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,119}$"
"""Session identifiers look like `sesn_01AbC…`; nothing but the alphabet is relied upon."""

_MAX_READABLE = 40
_HASH_LENGTH = 10


def is_session_id(value: object) -> bool:
    """Whether `value` may be used as a session ID (see SESSION_ID_PATTERN)."""
    return isinstance(value, str) and re.fullmatch(SESSION_ID_PATTERN[1:-1], value) is not None


def resource_name(session_id: str) -> str:
    """The deterministic name of the resource that serves `session_id`.

    Session IDs are mixed-case and Kubernetes names are not, so the readable part is followed by a hash of
    the exact ID: two IDs never share a name. At most 51 characters, so that derived names fit a label.

    Raises:
        ValueError: `session_id` is not a session ID.
    """
    if not is_session_id(session_id):
        raise ValueError("not a session ID: letters, digits, '_' and '-', at most 120 characters")
    readable = re.sub(r"[^a-z0-9]+", "-", session_id.lower()).strip("-")[:_MAX_READABLE].rstrip("-")
    digest = hashlib.sha256(session_id.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{readable or 'session'}-{digest}"


def identity(metadata: Mapping[str, Any]) -> str:
    """What the sandboxes of the resource with this metadata carry as METADATA_RESOURCE_UID.

    Its annotation, or its UID where it has none. A resource restored from a backup has another UID and the
    same annotation.
    """
    return str((metadata.get("annotations") or {}).get(ANNOTATION_IDENTITY) or metadata.get("uid") or "")


def token_secret_name(name: str) -> str:
    """The name of the Secret that carries the session token of the resource called `name`."""
    return f"{name}-token"
