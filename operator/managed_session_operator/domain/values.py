"""Defines the values of Secrets and ConfigMaps to which a policy refers. Pure."""

from __future__ import annotations

from typing import NamedTuple

from managed_session_api.resource import KeyReference


class Reference(NamedTuple):
    """A value in a Secret or a ConfigMap of the session's namespace."""

    kind: str
    """`Secret` or `ConfigMap`."""
    name: str
    key: str


def secret_key(at: KeyReference) -> Reference:
    """Return the reference to a key of a Secret."""
    return Reference("Secret", at.name, at.key)


class MissingValue(str):
    """Stands for a value that is missing, and says why. Only sections that can do without get it."""

    __slots__ = ()
