"""Client of E2B's control plane: the sandboxes of this installation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import e2b
from managed_session_api.conditions import Reason
from managed_session_api.times import as_utc
from pydantic import SecretStr

from managed_session_operator.clients.e2b.failures import translate
from managed_session_operator.clients.e2b.kept_snapshots import KeptSnapshots
from managed_session_operator.clients.e2b.open_calls import OPEN_SECONDS, OpenCalls
from managed_session_operator.clients.e2b.sandbox_creation import send_create
from managed_session_operator.clients.e2b.sandbox_network import send_network
from managed_session_operator.clients.e2b.sandbox_pages import read_pages
from managed_session_operator.clients.rotating_key import RotatingKey
from managed_session_operator.domain.errors import ErrorKind, OperationError, UnderWayError
from managed_session_operator.domain.remote_calls import E2B, remote_call
from managed_session_operator.domain.sandbox import SandboxNetwork, SandboxRequest, SandboxView

logger = logging.getLogger(__name__)


_LATE = 2.0
"""Multiple of a step's wait after which a response counts as lost, if E2B's record shows the effect."""


def _view(info: e2b.SandboxInfo) -> SandboxView:
    """Convert the SDK's record, which is not validated.

    Raises:
        TypeError, OverflowError: a value is invalid.
    """
    if not isinstance(info.sandbox_id, str) or not info.sandbox_id:
        raise TypeError("the sandbox's ID is not a string")
    return SandboxView(
        sandbox_id=info.sandbox_id,
        paused=info.state is e2b.SandboxState.PAUSED,
        template_id=str(info.template_id),
        metadata={name: str(value) for name, value in info.metadata.items()},
        started_at=as_utc(info.started_at),
        end_at=as_utc(info.end_at),
        vcpus=_size(info.cpu_count),
        memory_mib=_size(info.memory_mb),
    )


def _size(number: object) -> int | None:
    """Return a size that makes sense. Other entries than a sandbox's own may have none."""
    return number if isinstance(number, int) and number > 0 else None


def _views(page: Sequence[e2b.SandboxInfo]) -> Iterator[SandboxView]:
    """Convert a page, without unreadable entries."""
    for info in page:
        try:
            yield _view(info)
        except (TypeError, OverflowError) as error:
            logger.warning("ignoring an unreadable sandbox in the list", extra={"cause": str(error)})


def _is_still_pausing(view: SandboxView) -> bool:
    """Whether the pause is still in progress: until its end, `endAt` is the end of the countdown."""
    return view.end_at > datetime.now(UTC)


class Sandboxes:
    """E2B's control plane, for one team.

    Calls that change something are sent once, without the SDK's retries, and have a timeout. After that, the
    caller checks the current state and decides again. Creates, resumes and pauses are never cut off: E2B
    would cancel them, so that no slow start would ever succeed and a pause could lose what it was about to
    save. Their caller gets an UnderWayError after a while, and joins the call with its next attempt.

    Args:
        api_key: the E2B key.
        fence: raises NotLeadingError if effects must not be sent.
        request_timeout: timeout of a quick call in seconds.
        create_timeout: seconds that a step waits for a create, resume or pause.
        on_kill: called with the ID of a sandbox that was killed.
    """

    def __init__(
        self,
        api_key: RotatingKey,
        *,
        fence: Callable[[], None],
        request_timeout: float,
        create_timeout: float,
        on_kill: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._api_key = api_key
        self._on_kill = on_kill
        self._fence = fence
        self._request_timeout = request_timeout
        self._create_timeout = create_timeout
        self._bound: tuple[SecretStr, e2b.E2B] | None = None
        self._open = OpenCalls()
        self.snapshots = KeptSnapshots(
            self._call, self._open, request_timeout=request_timeout, patience=create_timeout
        )

    def key_lines(self) -> tuple[SecretStr, ...]:
        """Return the lines of the E2B key, to detect changes."""
        return self._api_key.lines()

    @asynccontextmanager
    async def _call(self, operation: str, timeout: float, of: str = "AsyncSandbox") -> AsyncIterator[Any]:
        self._fence()
        key = self._api_key.current()
        if self._bound is None or self._bound[0] != key:
            self._bound = (key, e2b.E2B(api_key=key.get_secret_value()))
        with remote_call(E2B, operation):
            try:
                async with asyncio.timeout(timeout):
                    yield getattr(self._bound[1], of)
            except Exception as error:  # noqa: BLE001 - the SDK passes raw transport and decoding errors on
                raise self._translated(operation, error, key) from None
        self._api_key.accepted(key)

    def _translated(self, operation: str, error: Exception, key: SecretStr) -> OperationError:
        """Translate the error. If the key was rejected and has another line, the call may be retried."""
        translated = translate(operation, error, key)
        if isinstance(error, e2b.AuthenticationException):
            if self._api_key.refused(key):
                translated.kind = ErrorKind.TRANSIENT
        elif translated.status is not None and translated.status < 500:
            self._api_key.accepted(key)
        return translated

    async def create(self, request: SandboxRequest, idempotency_key: str) -> e2b.AsyncSandbox:
        """Create a sandbox, or return the one that this key has already created, or join its create.

        A replayed response may name a sandbox that has been killed since. If the key may have been sent
        before, confirm with `info`.
        """
        self._fence()
        return await self._open.join(
            idempotency_key,
            "create",
            lambda: send_create(self._call, request, idempotency_key),
            self._create_timeout,
        )

    def creating(self, idempotency_key: str) -> bool:
        """Whether a create with this key is in progress."""
        return self._open.under_way(idempotency_key, "create")

    async def give_up_create(self, idempotency_key: str) -> None:
        """Cancel the create with this key, if it is in progress."""
        await self._open.give_up(idempotency_key)

    async def connect(
        self, sandbox_id: str, timeout_seconds: int, *, reboot: bool = False
    ) -> e2b.AsyncSandbox:
        """Resume the sandbox if it is paused, and extend its countdown to at least `timeout_seconds`.

        The SDK's retries are off, so that sessions do not repeat calls against a reached limit. A 404 is
        confirmed, because E2B also answers 404 for a crashed sandbox whose record still says "running".

        Args:
            sandbox_id: ID of the sandbox.
            timeout_seconds: the countdown in seconds.
            reboot: whether to boot it from its disk, without its saved memory.

        Raises:
            OperationError: kind NOT_FOUND if E2B does not have it, or answers with another one; kind STALE
                if it has crashed; reason GuestUnresponsive if it can only be resumed by a reboot.
            UnderWayError: there is no response yet.
        """
        self._fence()
        operation = "reboot" if reboot else "connect"

        async def send() -> e2b.AsyncSandbox:
            return await self._send_connect(sandbox_id, timeout_seconds, reboot=reboot)

        try:
            connected = await self._open.join(sandbox_id, operation, send, self._create_timeout)
        except UnderWayError:
            view = await self.info(sandbox_id)
            late = self._open.age_seconds(sandbox_id) > _LATE * self._create_timeout
            if late and view is not None and not view.paused:
                # It is running, so the response seems to be lost: the next attempt sends a new call.
                self._open.leave(sandbox_id)
            raise
        except OperationError as error:
            if error.kind is not ErrorKind.NOT_FOUND:
                raise
            raise await self._gone_or_stale(sandbox_id, error) from None
        if connected.sandbox_id != sandbox_id:
            message = (
                f"E2B answered connect for sandbox {sandbox_id} with another sandbox, {connected.sandbox_id}"
            )
            raise OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, message)
        return connected

    async def _send_connect(self, sandbox_id: str, timeout_seconds: int, *, reboot: bool) -> e2b.AsyncSandbox:
        async with self._call("connect", OPEN_SECONDS) as sandbox:
            connected: e2b.AsyncSandbox = await sandbox.connect(
                sandbox_id,
                timeout=timeout_seconds,
                on_resume="reboot" if reboot else "restore",
                retries=0,
                request_timeout=OPEN_SECONDS,
            )
            return connected

    async def _gone_or_stale(self, sandbox_id: str, error: OperationError) -> OperationError:
        """Return the meaning of E2B's 404 for an operation that needs a running sandbox."""
        view = await self.info(sandbox_id)
        if view is None:
            return error
        if view.paused:
            message = f"{error.message}, but the sandbox is paused"
            return OperationError(ErrorKind.TRANSIENT, Reason.SANDBOX_RESUME_FAILED, message, status=404)
        message = f"{error.message}, but its record says that it is running: the sandbox has crashed"
        return OperationError(ErrorKind.STALE, Reason.SANDBOX_UNREACHABLE, message, status=404)

    async def info(self, sandbox_id: str) -> SandboxView | None:
        """Return E2B's record of the sandbox, without waking it; None if it is gone."""
        try:
            async with self._call("get", self._request_timeout) as sandbox:
                return _view(await sandbox.get_info(sandbox_id, request_timeout=self._request_timeout))
        except OperationError as error:
            if error.kind is ErrorKind.NOT_FOUND or error.status == 404:
                return None
            raise

    async def pause(self, sandbox_id: str, *, strict: bool = True) -> SandboxView | None:
        """Pause the sandbox, or join its pause, and confirm that it is paused.

        Args:
            sandbox_id: ID of the sandbox.
            strict: whether E2B rejects the pause if the sandbox's operating system does not respond. A pause
                that is not strict may save a state that can only be rebooted.

        Returns:
            The paused sandbox; None if it is gone.

        Raises:
            OperationError: reason PauseFailed. The sandbox is not paused; after a rejected pause it goes on.
            UnderWayError: there is no response yet.
        """
        self._fence()
        refusal: OperationError | None = None
        try:
            await self._open.join(
                sandbox_id, "pause", lambda: self._send_pause(sandbox_id, strict=strict), self._create_timeout
            )
        except UnderWayError:
            view = await self.info(sandbox_id)
            if view is None or (view.paused and not _is_still_pausing(view)):
                self._open.leave(sandbox_id)
                return view
            raise
        except OperationError as error:
            if error.reason is Reason.SANDBOX_CREDENTIAL_REJECTED:
                raise
            refusal = error
        view = await self.info(sandbox_id)
        if view is None or (view.paused and not (refusal and _is_still_pausing(view))):
            return view
        message = refusal.message if refusal else "E2B confirmed the pause, but the sandbox is still running."
        status, retry_after = (refusal.status, refusal.retry_after) if refusal else (None, None)
        raise OperationError(ErrorKind.TRANSIENT, Reason.PAUSE_FAILED, message, retry_after, status=status)

    async def _send_pause(self, sandbox_id: str, *, strict: bool) -> None:
        async with self._call("pause", OPEN_SECONDS) as sandbox:
            # False means 409, which does not tell whether it is paused now.
            await sandbox.pause(sandbox_id, strict=strict, retries=0, request_timeout=OPEN_SECONDS)

    async def calls_answered(self, patience: float) -> None:
        """Wait until E2B has answered all open calls, at most `patience` seconds."""
        await self._open.answered(patience)

    async def kill(self, sandbox_id: str) -> bool:
        """Kill the running or paused sandbox. Return False if it does not exist."""
        async with self._call("kill", self._request_timeout) as sandbox:
            existed = bool(await sandbox.kill(sandbox_id, retries=0, request_timeout=self._request_timeout))
        if existed:
            self._on_kill(sandbox_id)
        return existed

    async def extend(self, sandbox_id: str, timeout_seconds: int) -> None:
        """Restart the running sandbox's countdown at `timeout_seconds`."""
        async with self._call("set_timeout", self._request_timeout) as sandbox:
            await sandbox.set_timeout(
                sandbox_id, timeout_seconds, retries=0, request_timeout=self._request_timeout
            )

    async def update_network(self, sandbox_id: str, network: SandboxNetwork) -> None:
        """Replace the running sandbox's rules for egress (see `send_network`)."""
        await send_network(self._call, sandbox_id, network, self._request_timeout)

    async def list(self, metadata: Mapping[str, str]) -> list[SandboxView]:
        """Return all running and paused sandboxes with this metadata, without duplicates.

        The caller may kill these sandboxes, so their own metadata is checked, whatever the server filtered.
        """
        found: dict[str, SandboxView] = {}
        async for page in self.pages(metadata):
            found |= {view.sandbox_id: view for view in page}
        return [*found.values()]

    async def pages(
        self, metadata: Mapping[str, str], *, running_only: bool = False
    ) -> AsyncIterator[Sequence[SandboxView]]:
        """Yield the same sandboxes page by page (see `read_pages`)."""
        timeout = self._request_timeout
        async for page in read_pages(self._call, metadata, timeout, running_only=running_only):
            yield [view for view in _views(page) if metadata.items() <= view.metadata.items()]

    @asynccontextmanager
    async def data_plane(self, operation: str, seconds: float | None = None) -> AsyncIterator[None]:
        """Wrap a call to a connected sandbox's commands or files: fence, timeout, translation of errors.

        `seconds` replaces the usual timeout for calls that can be repeated and may therefore outlast a Lease.
        """
        self._fence()
        key = self._api_key.current()
        with remote_call(E2B, operation):
            try:
                async with asyncio.timeout(seconds or self._request_timeout):
                    yield
            except (OperationError, asyncio.CancelledError):
                raise
            except Exception as error:  # noqa: BLE001 - the SDK raises plain Exception for interrupted streams
                raise translate(operation, error, key) from None
