"""Files of a sandbox, read without waking one that is paused."""

from __future__ import annotations

import e2b
from e2b.api.client.api.sandboxes import get_sandboxes_sandbox_id
from e2b.api.client.models import SandboxDetail
from e2b.api.client_async import get_api_client
from e2b.connection_config import ConnectionConfig
from managed_session_worker.paths import Paths
from packaging.version import Version

from managed_session_cli.clouds import SandboxGoneError, SandboxPausedError, e2b_explained, e2b_options

WORKER_LOG = Paths().worker_log

_SECONDS = 30.0
_AWAKE_SECONDS = 60


class SandboxFiles:
    """One sandbox's files.

    E2B's `connect` resumes a paused sandbox, so a running one is reached by what the control plane says about
    it instead: a sandbox that is paused between two calls then stays paused.

    Args:
        key: E2B's API key.
        sandbox_id: the sandbox.
    """

    def __init__(self, key: str, sandbox_id: str) -> None:
        self._options = {**e2b_options(key), "request_timeout": _SECONDS}
        self._sandbox_id = sandbox_id

    async def read(self, path: str) -> str:
        """The text of a file; empty where there is none yet.

        Raises:
            SandboxPausedError: the sandbox is paused.
            SandboxGoneError: there is no such sandbox.
            CloudError: E2B could not be asked, or refused.
        """
        with e2b_explained():
            detail = await self._detail()
        if detail is None:
            raise SandboxGoneError
        if detail.state.value != "running":
            raise SandboxPausedError
        token, domain = detail.envd_access_token, detail.domain
        headers = {"E2b-Sandbox-Id": self._sandbox_id, "E2b-Sandbox-Port": str(ConnectionConfig.envd_port)}
        if isinstance(token, str):
            headers["X-Access-Token"] = token
        sandbox = e2b.AsyncSandbox(
            sandbox_id=self._sandbox_id,
            envd_version=Version(detail.envd_version),
            envd_access_token=token if isinstance(token, str) else None,
            sandbox_domain=domain if isinstance(domain, str) else None,
            connection_config=ConnectionConfig(extra_sandbox_headers=headers, **self._options),
            traffic_access_token=None,
        )
        with e2b_explained():
            try:
                return str(await sandbox.files.read(path))
            except e2b.FileNotFoundException:
                return ""
            except e2b.SandboxException:
                # It may have been paused meanwhile, which this call then did not change.
                now = await self._detail()
                if now is None:
                    raise SandboxGoneError from None
                if now.state.value != "running":
                    raise SandboxPausedError from None
                raise

    async def wake(self) -> None:
        """Resume the sandbox for a minute at least (raises as `read`)."""
        with e2b_explained():
            try:
                await e2b.AsyncSandbox.connect(self._sandbox_id, timeout=_AWAKE_SECONDS, **self._options)
            except e2b.SandboxNotFoundException:
                raise SandboxGoneError from None

    async def pause(self) -> bool:
        """Pause the sandbox; whether it is paused then (raises CloudError)."""
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
