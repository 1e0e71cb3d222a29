"""E2B's side: the sandboxes of this installation, through the E2B SDK."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import e2b
from managed_session_api import names
from managed_session_api.conditions import Reason
from pydantic import SecretStr

from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.failures import Failure, Kind

logger = logging.getLogger(__name__)

_LIST_SECONDS = 60.0
"""For all pages of a list, which changes nothing and so may outlast a Lease."""

_PAUSE_SECONDS = 60.0
"""For a pause in E2B, which takes about 4 s for each GiB of memory."""


@dataclass(frozen=True)
class SandboxView:
    """What E2B says about a sandbox (`GET /sandboxes/{id}` and the list)."""

    sandbox_id: str
    paused: bool
    template_id: str
    metadata: Mapping[str, str]
    started_at: datetime
    end_at: datetime

    @property
    def attempt(self) -> int:
        """The number of the resource's attempt that made it; 0 where the metadata has none."""
        number = self.metadata.get(names.METADATA_ATTEMPT, "")
        return int(number) if number.isdecimal() else 0


@dataclass(frozen=True)
class SandboxWishes:
    """The body of a create; equal wishes make equal bodies, which an idempotency key requires."""

    template: str
    timeout_seconds: int
    metadata: Mapping[str, str]
    env: Mapping[str, str]
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    auto_resume: bool
    allow_public_traffic: bool


def _said(error: BaseException, secret: SecretStr) -> str:
    text = (str(error).strip().splitlines() or [""])[0].replace(secret.get_secret_value(), "…")
    return text[:200] or type(error).__name__


_REFUSED_CREATES = {404: Reason.TEMPLATE_NOT_FOUND, 400: Reason.SANDBOX_REQUEST_REJECTED}


def translate(operation: str, error: Exception, secret: SecretStr) -> Failure:
    """The failure that an exception of the E2B SDK means for `operation`.

    The SDK lets raw transport and decoding errors through; all of those leave open what the server did.
    """
    said = f"E2B answered {operation}: {_said(error, secret)}"
    status = getattr(error, "status_code", None)
    match error:
        case e2b.SandboxNotFoundException() | e2b.SandboxNotRunningException():
            return Failure(Kind.GONE, Reason.SANDBOX_VANISHED, said, status=status)
        case e2b.AuthenticationException():
            return Failure(Kind.PERSON, Reason.SANDBOX_CREDENTIAL_REJECTED, said, status=status)
        case e2b.RateLimitException():
            return Failure(Kind.QUOTA, Reason.SANDBOX_QUOTA_EXCEEDED, said, status=429)
        case e2b.ServiceBusyException():
            return Failure(Kind.RETRY, Reason.SANDBOX_CREATE_FAILED, said, status=503)
        case e2b.SandboxUnreachableException():
            return Failure(Kind.RETRY, Reason.SANDBOX_UNREACHABLE, said, definite=False)
        case e2b.NotEnoughSpaceException():
            return Failure(Kind.RETRY, Reason.SANDBOX_DISK_FULL, said, status=status)
        case e2b.TemplateException():
            return Failure(Kind.PERSON, Reason.TEMPLATE_NOT_FOUND, said, status=status)
    if status == 403:
        return Failure(Kind.PERSON, Reason.SANDBOX_CREDENTIAL_REJECTED, said, status=status)
    if operation == "create" and status in _REFUSED_CREATES:
        return Failure(Kind.PERSON, _REFUSED_CREATES[status], said, status=status)
    return Failure(
        Kind.RETRY,
        Reason.SANDBOX_CREATE_FAILED if operation in ("create", "connect") else Reason.SANDBOX_UNREACHABLE,
        said,
        definite=status is not None and status not in (502, 504),
        status=status,
    )


def _view(info: e2b.SandboxInfo) -> SandboxView:
    return SandboxView(
        sandbox_id=info.sandbox_id,
        paused=info.state is e2b.SandboxState.PAUSED,
        template_id=info.template_id,
        metadata=dict(info.metadata or {}),
        started_at=info.started_at,
        end_at=info.end_at,
    )


class Sandboxes:
    """E2B's control plane for one team.

    Calls that change something are sent once, without the SDK's retries, and end by their deadline; whoever
    called looks at what is there and decides anew. A pause is never cut off: E2B takes the end of its
    connection for its cancellation, and may lose the sandbox with all that it was about to save.

    Args:
        api_key: the E2B key, read afresh by each call.
        fence: raises NotLeadingError when effects must not be sent.
        request_timeout: seconds for a quick call.
        create_timeout: seconds for create, resume and pause.
    """

    def __init__(
        self,
        api_key: RotatingKey,
        *,
        fence: Callable[[], None],
        request_timeout: float,
        create_timeout: float,
    ) -> None:
        self._api_key = api_key
        self._fence = fence
        self._request_timeout = request_timeout
        self._create_timeout = create_timeout
        self._bound: tuple[SecretStr, e2b.E2B] | None = None
        self._pauses: set[asyncio.Task[None]] = set()

    def key_lines(self) -> tuple[SecretStr, ...]:
        """What is written down as the E2B key, to notice a change."""
        return self._api_key.lines()

    @asynccontextmanager
    async def _call(self, operation: str, timeout: float) -> AsyncIterator[Any]:
        self._fence()
        key = self._api_key.current()
        if self._bound is None or self._bound[0] != key:
            self._bound = (key, e2b.E2B(api_key=key.get_secret_value()))
        try:
            async with asyncio.timeout(timeout):
                yield self._bound[1].AsyncSandbox
        except Exception as error:  # noqa: BLE001 - raw transport and decoding errors come through the SDK
            raise self._refusal(operation, error, key) from None
        self._api_key.accepted(key)

    def _refusal(self, operation: str, error: Exception, key: SecretStr) -> Failure:
        """The failure; one for the key alone is worth another try where it has another line."""
        failure = translate(operation, error, key)
        if isinstance(error, e2b.AuthenticationException):
            if self._api_key.refused(key):
                failure.kind = Kind.RETRY
        elif failure.status is not None and failure.status < 500:
            self._api_key.accepted(key)
        return failure

    async def create(self, wishes: SandboxWishes, idempotency_key: str) -> e2b.AsyncSandbox:
        """Create a sandbox, or get the one that this key has made already.

        A replayed answer may name a sandbox that was killed since: confirm with `info` where the key may
        have been sent before.
        """
        network: dict[str, Any] = {"allow_public_traffic": wishes.allow_public_traffic}
        if wishes.allow:
            network["allow_out"] = list(wishes.allow)
        if wishes.deny:
            network["deny_out"] = list(wishes.deny)
        async with self._call("create", self._create_timeout) as sandbox:
            created: e2b.AsyncSandbox = await sandbox.create(
                template=wishes.template,
                timeout=wishes.timeout_seconds,
                metadata=dict(wishes.metadata),
                envs=dict(wishes.env),
                network=network,
                lifecycle={"on_timeout": "pause", "auto_resume": wishes.auto_resume},
                idempotency_key=idempotency_key,
                retries=0,
                request_timeout=self._create_timeout,
            )
            return created

    async def connect(self, sandbox_id: str, timeout_seconds: int) -> e2b.AsyncSandbox:
        """Resume the sandbox if it is paused, and extend its countdown to at least `timeout_seconds`.

        The SDK's retries are off: a reached limit is not knocked at four times by each session.
        """
        async with self._call("connect", self._create_timeout) as sandbox:
            connected: e2b.AsyncSandbox = await sandbox.connect(
                sandbox_id, timeout=timeout_seconds, retries=0, request_timeout=self._create_timeout
            )
            return connected

    async def info(self, sandbox_id: str) -> SandboxView | None:
        """The sandbox as E2B sees it, without waking it; None when it is gone."""
        try:
            async with self._call("get", self._request_timeout) as sandbox:
                return _view(await sandbox.get_info(sandbox_id, request_timeout=self._request_timeout))
        except Failure as failure:
            if failure.kind is Kind.GONE or failure.status == 404:
                return None
            raise

    async def pause(self, sandbox_id: str) -> SandboxView | None:
        """Pause the sandbox and make sure that it is paused.

        Returns:
            The paused sandbox; None when it is gone.

        Raises:
            Failure: it is not paused (a refused pause leaves it running), reason PauseFailed.
        """
        failure: Failure | None = None
        self._fence()
        sent = asyncio.create_task(self._send_pause(sandbox_id), name=f"pause-{sandbox_id}")
        self._pauses.add(sent)
        sent.add_done_callback(self._pause_answered)
        try:
            async with asyncio.timeout(self._create_timeout):
                await asyncio.shield(sent)
        except TimeoutError:
            said = f"E2B has not answered pause in {self._create_timeout:g} s"
            failure = Failure(Kind.RETRY, Reason.PAUSE_FAILED, said, definite=False)
        except Failure as error:
            if error.reason is Reason.SANDBOX_CREDENTIAL_REJECTED:
                raise
            failure = error
        view = await self.info(sandbox_id)
        if view is None or view.paused:
            return view
        said = failure.message if failure else "E2B answered pause and the sandbox is still running"
        raise Failure(Kind.RETRY, Reason.PAUSE_FAILED, said, failure.retry_after if failure else None)

    async def _send_pause(self, sandbox_id: str) -> None:
        async with self._call("pause", _PAUSE_SECONDS) as sandbox:
            # False means "409", which is no answer to whether it is paused now.
            await sandbox.pause(sandbox_id, retries=0, request_timeout=_PAUSE_SECONDS)

    def _pause_answered(self, sent: asyncio.Task[None]) -> None:
        self._pauses.discard(sent)
        if not sent.cancelled() and (error := sent.exception()) is not None:
            logger.info("pause failed", extra={"cause": str(error)})

    async def pauses_answered(self, patience: float) -> None:
        """Wait until E2B has answered the pauses under way, at most `patience` seconds."""
        if self._pauses:
            await asyncio.wait(set(self._pauses), timeout=patience)

    async def kill(self, sandbox_id: str) -> bool:
        """Kill the sandbox, running or paused. False when there was none."""
        async with self._call("kill", self._request_timeout) as sandbox:
            return bool(await sandbox.kill(sandbox_id, retries=0, request_timeout=self._request_timeout))

    async def extend(self, sandbox_id: str, timeout_seconds: int) -> None:
        """Restart the running sandbox's countdown at `timeout_seconds`."""
        async with self._call("set_timeout", self._request_timeout) as sandbox:
            await sandbox.set_timeout(
                sandbox_id, timeout_seconds, retries=0, request_timeout=self._request_timeout
            )

    async def list(self, metadata: Mapping[str, str]) -> list[SandboxView]:
        """All running and paused sandboxes whose metadata has these pairs, without repetitions.

        What is listed here may be killed, so the answer's own metadata counts, whatever the server filtered.
        """
        found: dict[str, SandboxView] = {}
        async with self._call("list", _LIST_SECONDS) as sandbox:
            pages = sandbox.list(
                query=e2b.SandboxQuery(metadata=dict(metadata)),
                limit=100,
                request_timeout=self._request_timeout,
            )
            while pages.has_next:
                for info in await pages.next_items():
                    found[info.sandbox_id] = _view(info)
        return [view for view in found.values() if metadata.items() <= view.metadata.items()]

    @asynccontextmanager
    async def data_plane(self, operation: str) -> AsyncIterator[None]:
        """One call to a connected sandbox's commands or files: fence, deadline, translation."""
        self._fence()
        key = self._api_key.current()
        try:
            async with asyncio.timeout(self._request_timeout):
                yield
        except (Failure, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - the SDK raises plain Exception for cut streams
            raise translate(operation, error, key) from None
