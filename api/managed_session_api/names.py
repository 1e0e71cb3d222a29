"""Defines names that webhook, operator, manifests and users share.

All names of this project in a cluster and in E2B use the domain `managedagents.dev`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

DOMAIN = "managedagents.dev"
GROUP = DOMAIN
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ManagedSession"
PLURAL = "managedsessions"
SINGULAR = "managedsession"
SHORT_NAME = "msess"

CLASS_KIND = "ManagedSessionClass"
CLASS_PLURAL = "managedsessionclasses"
CLASS_SINGULAR = "managedsessionclass"
CLASS_SHORT_NAME = "msc"

SHARED_KIND = "ManagedSandbox"
SHARED_PLURAL = "managedsandboxes"
SHARED_SINGULAR = "managedsandbox"
SHARED_SHORT_NAME = "msbx"

FINALIZER = f"{DOMAIN}/sandbox"
"""Present while a sandbox of the resource may exist."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "managed-sessions"
ANNOTATION_CLAIM = f"{DOMAIN}/claim"
"""On the Secret of a session token: the claim (`status.work.claim`) that the token belongs to."""

ANNOTATION_WEBHOOK_HEARD = f"{DOMAIN}/webhook-heard-at"
ANNOTATION_WEBHOOK_SILENT = f"{DOMAIN}/webhook-silent-since"
ANNOTATION_POLLED_TURNS = f"{DOMAIN}/turns-found-by-polling"
ANNOTATION_POLLED_SINCE = f"{DOMAIN}/found-by-polling-since"
"""On the operator's Lease: when a webhook event last announced a turn, since when none does, and how many
turns in a row were found by polling alone, since when."""

ANNOTATION_IDENTITY = f"{DOMAIN}/identity"
"""On a resource: the METADATA_RESOURCE_UID of its sandboxes. Survives in a backup of the resource."""

ANNOTATION_ATTENDED = f"{DOMAIN}/attended-until"
"""On a ManagedSession: until when somebody works in its sandbox, so that it is not paused for lack of work.
A command renews it for as long as it runs."""

METADATA_INSTALLATION = f"{DOMAIN}/installation"
METADATA_RESOURCE_UID = f"{DOMAIN}/resource-uid"
METADATA_SESSION = f"{DOMAIN}/session"
METADATA_ATTEMPT = f"{DOMAIN}/attempt"
METADATA_SHARED = f"{DOMAIN}/managed-sandbox"
"""Keys of an E2B sandbox's metadata. Values are strings and are set at creation only.

A shared sandbox has the name of its ManagedSandbox under METADATA_SHARED, the identity of that resource under
METADATA_RESOURCE_UID, and no METADATA_SESSION.
"""

RESOURCE_NAMESPACE = "managed-sessions"
SYSTEM_NAMESPACE = "managed-sessions-system"

SESSION_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,119}$"
"""Session IDs look like `sesn_01AbC…`. Only the alphabet and the length are relied upon."""

_MAX_READABLE = 40
_HASH_LENGTH = 10
_MAX_INSTALLATION = 12


def is_session_id(value: object) -> bool:
    """Whether `value` is a valid session ID (see SESSION_ID_PATTERN)."""
    return isinstance(value, str) and re.fullmatch(SESSION_ID_PATTERN[1:-1], value) is not None


def resource_name(session_id: str) -> str:
    """Return the name of the resource that serves `session_id`; always the same for the same ID.

    Session IDs are case-sensitive and Kubernetes names are lower-case, so a hash of the exact ID follows the
    readable part: two IDs never share a name. At most 51 characters, so that derived names fit a label.

    Raises:
        ValueError: `session_id` is not a valid session ID.
    """
    if not is_session_id(session_id):
        raise ValueError("not a session ID: letters, digits, '_' and '-', at most 120 characters")
    readable = re.sub(r"[^a-z0-9]+", "-", session_id.lower()).strip("-")[:_MAX_READABLE].rstrip("-")
    digest = hashlib.sha256(session_id.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{readable or 'session'}-{digest}"


def shared_sandbox_name(
    installation_id: str, environment_id: str, scope: str, key: str, class_name: str
) -> str:
    """Return the name of the ManagedSandbox for a routing key; always the same for the same arguments.

    Sessions of different classes never share a sandbox, so the class is part of it.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")[:_MAX_READABLE].rstrip("-")
    exact = "\n".join((installation_id, environment_id, scope, key, class_name))
    digest = hashlib.sha256(exact.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{scope}-{readable or 'key'}-{digest}"


def session_key(identity: str, session_id: str) -> str:
    """Return what names a session within a shared sandbox: 17 characters of [a-z0-9].

    A resource that is deleted and made again gets another one, so that it never sees the former files. One
    that is restored from a backup keeps it.
    """
    return "s" + hashlib.sha256(f"{identity}\n{session_id}".encode()).hexdigest()[:16]


def snapshot_prefix(installation_id: str) -> str:
    """Return what the names of an installation's snapshots in E2B begin with.

    E2B allows lower-case letters, digits, "-" and "_".
    """
    return f"msess-{re.sub(r'[^a-z0-9]', '', installation_id.lower())[:_MAX_INSTALLATION]}-"


def session_snapshot_prefix(installation_id: str, session_id: str) -> str:
    """Return what the names of a session's snapshots in E2B begin with."""
    session = re.sub(r"[^a-z0-9_-]", "-", session_id.lower())[:_MAX_READABLE]
    return f"{snapshot_prefix(installation_id)}{session}-"


def snapshot_name(installation_id: str, session_id: str, at: datetime) -> str:
    """Return a new snapshot's name in E2B.

    It has the installation, the session and the time, so that a snapshot that outlives both can be told.
    """
    prefix = session_snapshot_prefix(installation_id, session_id)
    return f"{prefix}{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}"


def identity(metadata: Mapping[str, Any]) -> str:
    """Return the METADATA_RESOURCE_UID of the sandboxes of the resource with this metadata.

    This is its identity annotation, or its UID if it has none. A resource restored from a backup has a new
    UID, but the same annotation.
    """
    return str((metadata.get("annotations") or {}).get(ANNOTATION_IDENTITY) or metadata.get("uid") or "")


def token_secret_name(name: str) -> str:
    """Return the name of the Secret with the session token of the resource `name`."""
    return f"{name}-token"
