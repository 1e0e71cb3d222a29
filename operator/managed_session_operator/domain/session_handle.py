"""Defines the handle of a sandbox that several sessions share, as one of them uses it."""

from __future__ import annotations

from dataclasses import dataclass

from managed_session_operator.domain.ports import SandboxHandle


@dataclass(frozen=True)
class SessionHandle:
    """A shared sandbox, for one of its sessions.

    All commands and files that are sent with it are meant for this session's supervisor and folders. The
    handle of a sandbox of one session has no key: everything in the sandbox belongs to that session.

    Attributes:
        sandbox: the connected sandbox.
        session_key: names the session within the sandbox: at most 32 characters of [a-z0-9-], the same as
            long as the session's resource exists, and never that of another session.
    """

    sandbox: SandboxHandle
    session_key: str

    @property
    def sandbox_id(self) -> str:
        """The sandbox's ID."""
        return self.sandbox.sandbox_id


def session_key_of(handle: SandboxHandle) -> str | None:
    """Return the key of the session in a shared sandbox; None for a sandbox of one session."""
    return handle.session_key if isinstance(handle, SessionHandle) else None
