"""Compares an installation's credentials in the environment and the cluster's Secrets, and plans writes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from managed_session_api.credentials import OPERATOR_CREDENTIALS, WEBHOOK_CREDENTIALS, Credential

from managed_session_cli.cluster import Object
from managed_session_cli.installation import OPERATOR, PART_OF, WEBHOOK

SECRETS: dict[str, tuple[Credential, ...]] = {OPERATOR: OPERATOR_CREDENTIALS, WEBHOOK: WEBHOOK_CREDENTIALS}
"""The credentials that each process's Secret may have."""

_SIGNING_PREFIX = "whsec_"
_URL_SAFE = str.maketrans("-_", "+/")
_SHORTEST_SIGNING_KEY = 16


@dataclass(frozen=True)
class SecretWrite:
    """A change of one Secret.

    Attributes:
        name: of the Secret.
        exists: whether it exists already.
        values: by key, those that change only; never shown.
        kept: keys that the Secret has and keeps.
    """

    name: str
    exists: bool
    values: Mapping[str, str]
    kept: tuple[str, ...]

    def __repr__(self) -> str:
        return f"SecretWrite({self.name!r}, keys={sorted(self.values)})"


def values_of(secret: Object | None) -> dict[str, str]:
    """Return the values of a Secret by key, without surrounding white space."""
    data = (secret or {}).get("data") or {}
    decoded = {key: base64.b64decode(value).decode(errors="replace").strip() for key, value in data.items()}
    return {key: value for key, value in decoded.items() if value}


def lines(value: str) -> list[str]:
    """Return a credential's values: one per line, several during a rotation."""
    return [line.strip() for line in value.splitlines() if line.strip()]


def first(value: str) -> str:
    """Return a credential's first value, which the operator tries first, too."""
    return lines(value)[0]


def plan_writes(given: Mapping[str, str], present: Mapping[str, Object | None]) -> list[SecretWrite]:
    """Return what to write into each Secret; one that is up to date gets no values.

    Args:
        given: credentials from the environment.
        present: the Secrets in the cluster, by name.
    """
    writes = []
    for name, allowed in SECRETS.items():
        there = values_of(present.get(name))
        changed = {key.value: given[key] for key in allowed if key in given and there.get(key) != given[key]}
        kept = tuple(sorted(key for key in there if key not in changed))
        writes.append(SecretWrite(name, present.get(name) is not None, changed, kept))
    return writes


def secret_manifest(write: SecretWrite, namespace: str) -> Object:
    """Return a new Secret with the values of `write`."""
    labels = {"app.kubernetes.io/name": write.name, **PART_OF}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": write.name, "namespace": namespace, "labels": labels},
        "type": "Opaque",
        "data": encoded(write.values),
    }


def encoded(values: Mapping[str, str]) -> dict[str, str]:
    """Encode values for the `data` of a Secret."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def signing_key_problem(value: str) -> str | None:
    """Return what is wrong with a webhook signing key (or several, one per line); None if nothing is."""
    for line in lines(value):
        if not line.startswith(_SIGNING_PREFIX):
            return (
                f"does not begin with {_SIGNING_PREFIX}: use the signing key that the Claude Console showed"
            )
        try:
            decoded = base64.b64decode(line.removeprefix(_SIGNING_PREFIX).translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            return f"is not base64 after {_SIGNING_PREFIX}: copy all of it"
        if len(decoded) < _SHORTEST_SIGNING_KEY:
            return "is too short: copy all of it"
    return None
