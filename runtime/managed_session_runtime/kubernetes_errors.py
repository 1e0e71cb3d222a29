"""Defines the errors of calls to the API server, for all processes."""

from __future__ import annotations


class KubernetesError(Exception):
    """A call to the API server failed.

    Attributes:
        status: HTTP status of the response; None if there was no response.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ConflictError(KubernetesError):
    """The object has changed since it was read, or already exists. Read it again."""


class ResourceGoneError(KubernetesError):
    """The object no longer exists."""


class KubernetesUnavailableError(KubernetesError):
    """The call may succeed later."""


class KubernetesMisconfiguredError(KubernetesError):
    """The call will not succeed until someone changes something. The text says what."""
