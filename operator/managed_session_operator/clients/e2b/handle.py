"""Returns the SDK's object behind a sandbox handle. Only the clients of E2B know that it is one."""

from __future__ import annotations

from typing import cast

import e2b

from managed_session_operator.domain.ports import SandboxHandle


def sdk_sandbox(handle: SandboxHandle) -> e2b.AsyncSandbox:
    """Return the SDK's connected sandbox. All handles come from `Sandboxes`, so the cast is safe."""
    return cast("e2b.AsyncSandbox", handle)
