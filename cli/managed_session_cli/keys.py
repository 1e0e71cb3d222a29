"""The credentials of an installation: from the environment, from the cluster's Secrets, and what changes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from managed_session_local.clouds import (
    ADMIN_TOKEN,
    API_KEY,
    E2B_API_KEY,
    ENVIRONMENT_ID,
    ENVIRONMENT_KEY,
    OPERATOR_CREDENTIALS,
    SIGNING_KEY,
    WEBHOOK_CREDENTIALS,
    credential_variable,
    credentials_in,
)

from managed_session_cli.cluster import Object
from managed_session_cli.installation import OPERATOR, PART_OF, WEBHOOK

REQUIRED = (ENVIRONMENT_ID, ENVIRONMENT_KEY, E2B_API_KEY)
SECRETS: dict[str, tuple[str, ...]] = {OPERATOR: OPERATOR_CREDENTIALS, WEBHOOK: WEBHOOK_CREDENTIALS}
"""Which credentials each process's Secret may have."""

_SIGNING_PREFIX = "whsec_"
_URL_SAFE = str.maketrans("-_", "+/")
_SHORTEST_SIGNING_KEY = 16


@dataclass(frozen=True)
class SecretWrite:
    """What is to be done to one Secret; `values` are only those that change.

    Attributes:
        name: of the Secret.
        exists: whether it is there already.
        values: new values by key; never shown.
        kept: keys that are there and stay as they are.
    """

    name: str
    exists: bool
    values: Mapping[str, str]
    kept: tuple[str, ...]

    def __repr__(self) -> str:
        return f"SecretWrite({self.name!r}, keys={sorted(self.values)})"


def values_of(secret: Object | None) -> dict[str, str]:
    """The values of a Secret, by their keys, without white space around them."""
    data = (secret or {}).get("data") or {}
    decoded = {key: base64.b64decode(value).decode(errors="replace").strip() for key, value in data.items()}
    return {key: value for key, value in decoded.items() if value}


def lines(value: str) -> list[str]:
    """A credential's values: several, one a line, while it is rotated."""
    return [line.strip() for line in value.splitlines() if line.strip()]


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The credentials that the environment's variables give, by the names of their files."""
    return credentials_in(environ)


def missing(available: Mapping[str, str]) -> list[str]:
    """The environment variables that have to be set, because neither they nor the cluster have the value."""
    return [credential_variable(name) for name in REQUIRED if name not in available]


def plan_writes(given: Mapping[str, str], present: Mapping[str, Object | None]) -> list[SecretWrite]:
    """What has to be written, by Secret; a Secret that already is as wanted has no values.

    Args:
        given: credentials from the environment.
        present: the Secrets in the cluster, by name.
    """
    writes = []
    for name, allowed in SECRETS.items():
        there = values_of(present.get(name))
        changed = {key: given[key] for key in allowed if key in given and there.get(key) != given[key]}
        kept = tuple(sorted(key for key in there if key not in changed))
        writes.append(SecretWrite(name, present.get(name) is not None, changed, kept))
    return writes


def secret_manifest(write: SecretWrite, namespace: str) -> Object:
    """A new Secret with the values of `write`."""
    labels = {"app.kubernetes.io/name": write.name, **PART_OF}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": write.name, "namespace": namespace, "labels": labels},
        "type": "Opaque",
        "data": encoded(write.values),
    }


def encoded(values: Mapping[str, str]) -> dict[str, str]:
    """Values as a Secret's `data` has them."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def signing_key_problem(value: str) -> str | None:
    """What is wrong with a webhook signing key (several for a rotation: one a line); None if nothing is."""
    for line in lines(value):
        if not line.startswith(_SIGNING_PREFIX):
            return f"does not begin with {_SIGNING_PREFIX}: take the signing secret that the Console showed"
        try:
            decoded = base64.b64decode(line.removeprefix(_SIGNING_PREFIX).translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            return f"is not base64 after {_SIGNING_PREFIX}: was it copied in full?"
        if len(decoded) < _SHORTEST_SIGNING_KEY:
            return "is too short: was it copied in full?"
    return None


__all__ = [
    "ADMIN_TOKEN",
    "API_KEY",
    "E2B_API_KEY",
    "ENVIRONMENT_ID",
    "ENVIRONMENT_KEY",
    "REQUIRED",
    "SECRETS",
    "SIGNING_KEY",
    "SecretWrite",
    "credential_variable",
]
