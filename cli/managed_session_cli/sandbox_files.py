"""Reads files of a sandbox without waking one that is paused."""

from __future__ import annotations

import e2b
from e2b.api.client.api.sandboxes import get_sandboxes_sandbox_id
from e2b.api.client.models import SandboxDetail
from e2b.api.client_async import get_api_client, get_envd_api
from e2b.connection_config import ConnectionConfig
from e2b.envd.api import ENVD_API_FILES_ROUTE, ahandle_envd_api_exception

from managed_session_cli.clouds import SandboxGoneError, SandboxPausedError, e2b_explained, e2b_options

_SECONDS = 30.0
_AWAKE_SECONDS = 120
_USER = "root"
"""Only root may look into the folders of sessions that share a sandbox."""


class SandboxFiles:
    """The files of one sandbox.

    E2B's `connect` resumes a paused sandbox. These calls use what the control plane returns about a running
    one instead, so that a sandbox that is paused between two calls stays paused.

    Args:
        key: E2B's API key.
        sandbox_id: the sandbox.
    """

    def __init__(self, key: str, sandbox_id: str) -> None:
        self._options = {**e2b_options(key), "request_timeout": _SECONDS}
        self._sandbox_id = sandbox_id

    async def read(self, path: str, start: int = 0) -> bytes | None:
        """Return a file's bytes from `start` on: empty if there is no file yet, None if it is shorter.

        Raises:
            SandboxPausedError: the sandbox is paused.
            SandboxGoneError: there is no such sandbox.
            CloudError: E2B rejected the call or did not answer.
        """
        with e2b_explained():
            detail = await self._detail()
        if detail is None:
            raise SandboxGoneError
        if detail.state.value != "running":
            raise SandboxPausedError
        with e2b_explained():
            try:
                return await self._download(detail, path, start)
            except e2b.FileNotFoundException:
                return b"" if start == 0 else None
            except e2b.SandboxException:
                # It may have been paused meanwhile; this call did not resume it.
                now = await self._detail()
                if now is None:
                    raise SandboxGoneError from None
                if now.state.value != "running":
                    raise SandboxPausedError from None
                raise

    async def _download(self, detail: SandboxDetail, path: str, start: int) -> bytes | None:
        """Read from the sandbox's daemon, since the SDK's own `read` has no ranges."""
        token, domain = detail.envd_access_token, detail.domain
        headers = {"E2b-Sandbox-Id": self._sandbox_id, "E2b-Sandbox-Port": str(ConnectionConfig.envd_port)}
        if isinstance(token, str):
            headers["X-Access-Token"] = token
        config = ConnectionConfig(extra_sandbox_headers=headers, **self._options)
        url = config.get_sandbox_url(self._sandbox_id, domain if isinstance(domain, str) else config.domain)
        wanted = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"} if start else {}
        answer = await get_envd_api(config, url).get(
            ENVD_API_FILES_ROUTE, params={"path": path, "username": _USER}, headers=wanted, timeout=_SECONDS
        )
        if answer.status_code == 416:
            return None
        if (error := await ahandle_envd_api_exception(answer, {404: e2b.FileNotFoundException})) is not None:
            raise error
        return answer.content if answer.status_code == 206 else answer.content[start:]

    async def paused(self) -> bool:
        """Return whether the sandbox is paused, without waking it (raises as `read`)."""
        with e2b_explained():
            detail = await self._detail()
        if detail is None:
            raise SandboxGoneError
        return detail.state.value != "running"

    async def wake(self) -> None:
        """Have the sandbox run for two minutes at least (raises as `read`)."""
        with e2b_explained():
            try:
                await e2b.AsyncSandbox.connect(self._sandbox_id, timeout=_AWAKE_SECONDS, **self._options)
            except e2b.SandboxNotFoundException:
                raise SandboxGoneError from None

    async def pause(self) -> bool:
        """Pause the sandbox, and return whether it is paused (raises CloudError)."""
        with e2b_explained():
            await e2b.AsyncSandbox.pause(self._sandbox_id, retries=0, **self._options)
            detail = await self._detail()
        return detail is not None and detail.state.value == "paused"

    async def _detail(self) -> SandboxDetail | None:
        config = ConnectionConfig(**self._options)
        answer = await get_sandboxes_sandbox_id.asyncio_detailed(
            self._sandbox_id, client=get_api_client(config)
        )
        if answer.status_code == 404:
            return None
        if not isinstance(answer.parsed, SandboxDetail):
            raise e2b.SandboxException(f"HTTP {int(answer.status_code)}", status_code=int(answer.status_code))
        return answer.parsed
