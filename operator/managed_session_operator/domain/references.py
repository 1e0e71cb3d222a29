"""Defines values that a session's policy takes from Secrets and ConfigMaps."""

from __future__ import annotations

from dataclasses import dataclass

from managed_session_api.conditions import Reason
from managed_session_api.resource import KeyReference
from pydantic import SecretStr

from managed_session_operator.domain.errors import ErrorKind, OperationError


@dataclass(frozen=True)
class ReferencedValue:
    """What a key holds.

    Attributes:
        value: the text.
        version: changes whenever the object does. Nothing about the value can be learned from it.
    """

    value: SecretStr
    version: str


def unusable(reference: KeyReference, why: str, kind: str = "Secret") -> OperationError:
    """Return the error that a value cannot be used for what it is meant for. `why` never quotes it."""
    message = f"The key {reference.key} of the {kind} {reference.name} cannot be used: {why}."
    return OperationError(ErrorKind.USER_ACTION, Reason.REFERENCE_INVALID, message)
