"""Says what a sandbox handle stands for: an object of the SDK, and a session's folders in the sandbox."""

from __future__ import annotations

from typing import cast

import e2b
from managed_session_worker.paths import Paths

from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.session_handle import SessionHandle, session_key_of


def sdk_sandbox(handle: SandboxHandle) -> e2b.AsyncSandbox:
    """Return the SDK's connected sandbox. All handles come from `Sandboxes`, so the cast is safe."""
    return cast("e2b.AsyncSandbox", handle.sandbox if isinstance(handle, SessionHandle) else handle)


def paths_of(handle: SandboxHandle) -> Paths:
    """Return the sandbox's paths or, in a shared one, those of the handle's session."""
    return Paths(session=session_key_of(handle) or "")
