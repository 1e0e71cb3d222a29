"""Memory stores: makes room for them, uploads what was written before a wait, and finds out what failed.

The SDK's worker downloads the stores that are attached to the session, syncs them after tool calls, and once
more before it stops the work item. It says in its log only what it could not sync. It makes the object for
the stores itself and offers no way to pass another one, so `shared` replaces the name under which it finds
the class.
"""

import asyncio
import filecmp
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from anthropic import Middleware as SDKMiddleware
from anthropic.lib.environments import _worker as sdk
from anthropic.lib.tools._memories import SessionMemoryStores

from managed_session_worker.worker_log import logger
from managed_session_worker.workspace import leftovers_in, move_aside

FLUSH_SECONDS = 10.0
"""How long an upload before a wait may take. The wait is reported afterwards, so no pause comes first."""
MOST_FAILURES = 20
MOST_CHARACTERS = 200
_SESSION = re.compile(r"/v1/sessions/[^/]+$")
_LIST = re.compile(r"/v1/memory_stores/([^/]+)/memories$")
_LINES: tuple[tuple[str, int, int | None, str], ...] = (
    ("memory sync failed ", 0, None, "it could not be synced"),
    ("memory flush failed ", 0, None, "it could not be uploaded"),
    ("memory flush cut off part-way", 2, None, "the upload took too long"),
    ("%s; leaving the memory store folder as found", 2, None, "its folder was changed, so it is not synced"),
    ("%s; not uploading anything", 2, None, "its folder was changed, so nothing is uploaded"),
    ("failed to upload memory ", 1, 0, "could not be uploaded"),
    ("failed to delete memory ", 1, 0, "could not be deleted"),
    ("failed to write memory ", 1, 0, "could not be written to the disk"),
    ("failed to fetch memory content ", 1, 0, "could not be downloaded"),
    ("the server rejected this memory file", 1, 0, "was rejected by Anthropic"),
)
"""Beginnings of the SDK's log lines, the positions of store and path among the arguments, and the meaning."""
_REJECTED = "the server rejected this memory file"
_DOWNLOADED = "downloaded %d memories "

Failure = dict[str, str]


class SharedStores(SessionMemoryStores):
    """The SDK's stores of one session, of which one method runs at a time."""

    def __init__(self, *arguments: Any, made: Callable[["SharedStores"], None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turn = asyncio.Lock()
        self._over = False
        made(self)

    async def sync_if_due(self) -> None:
        """Sync as the SDK does."""
        async with self._turn:
            await super().sync_if_due()

    async def finish(self) -> None:
        """Sync for the last time as the SDK does."""
        async with self._turn:
            await super().finish()

    async def flush_writes(self) -> None:
        """Upload new and changed files as the SDK does, unless the folders are gone already."""
        async with self._turn:
            if not self._over:
                await super().flush_writes()

    async def dispose(self) -> None:
        """Remove the folders as the SDK does."""
        async with self._turn:
            self._over = True
            await super().dispose()


class _LogLines(logging.Handler):
    """Passes the SDK's log records on, before they are formatted."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.INFO)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on."""
        self._take(record)


class MemoryStores(SDKMiddleware):
    """Follows the memory stores of one work item, as middleware and in the SDK's log.

    Args:
        folder: The folder in which stores are mounted.
        aside: Where leftovers of earlier workers of the session are kept for this claim.
        report: Gets the failures (`store`, `why`) each time they change; none once all is synced.
        report_unsynchronised: Gets the files of leftovers that the stores do not have.
    """

    def __init__(
        self,
        folder: Path,
        aside: Path,
        report: Callable[[list[Failure]], None],
        report_unsynchronised: Callable[[list[str]], None],
    ) -> None:
        self.log_handler = _LogLines(self._read)
        self._folder, self._aside = folder, aside
        self._report, self._report_unsynchronised = report, report_unsynchronised
        self._stores: SharedStores | None = None
        self._room_made = False
        self._failures: dict[tuple[str, str], str] = {}
        """By store and beginning of the log line, or path for a rejected file."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Have the SDK's worker in this process make `SharedStores` for its session meanwhile."""
        name = "SessionMemoryStores"
        self._room_made = False
        setattr(sdk, name, partial(SharedStores, made=partial(setattr, self, "_stores")))
        try:
            yield
        finally:
            setattr(sdk, name, SessionMemoryStores)
            self._stores = None

    async def flush(self) -> None:
        """Upload what was written, within `FLUSH_SECONDS`. Without changes it sends nothing. Never raises."""
        if self._stores is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._stores.flush_writes()

    async def handle_async(self, request: Any, call_next: Any) -> Any:
        """Pass one attempt on. Make room for the session's stores; note when a store is compared anew."""
        response = await call_next(request)
        if response.status_code == 200 and request.method.lower() == "get":
            path = str(request.url).split("?", 1)[0]
            if not self._room_made and _SESSION.search(path):
                self._room_made = True
                with suppress(ValueError, AttributeError, TypeError):
                    self._make_room((await response.json()).get("resources") or ())
            elif (store := _LIST.search(path)) is not None:
                self._compared(store[1])
        return response

    def _read(self, record: logging.LogRecord) -> None:
        text, arguments = str(record.msg), record.args if isinstance(record.args, tuple) else ()
        if text.startswith(_DOWNLOADED) and len(arguments) == 3:
            self._downloaded(Path(str(arguments[2])))
            return
        for beginning, store, path, why in _LINES:
            if text.startswith(beginning) and len(arguments) > max(store, path or 0):
                self._failed(str(arguments[store]), beginning, arguments, path, why)
                return

    def _failed(
        self, store: str, beginning: str, arguments: tuple[object, ...], path: int | None, why: str
    ) -> None:
        key = beginning
        if path is not None:
            why = f"{str(arguments[path])!r:.100} {why}"
            key = f"{beginning}{arguments[path]}"
        error = arguments[-1]
        if isinstance(error, Exception):
            why = f"{why} ({type(error).__name__}: {error})"
        before = self._failures.get((store, key))
        self._failures[store, key] = why[:MOST_CHARACTERS]
        if before != self._failures[store, key]:
            self._changed()

    def _compared(self, store: str) -> None:
        """Forget a store's failures: the SDK compares all of it, and says again what it cannot sync.

        Only a rejected file is not mentioned again.
        """
        kept = {
            (name, key): why
            for (name, key), why in self._failures.items()
            if name != store or key.startswith(_REJECTED)
        }
        if kept != self._failures:
            self._failures = kept
            self._changed()

    def _changed(self) -> None:
        failures = [{"store": store, "why": why} for (store, _), why in self._failures.items()]
        self._report(failures[:MOST_FAILURES])

    def _make_room(self, resources: Any) -> None:
        """Move aside what is in the place of a store, because the SDK would refuse to serve the session."""
        for each in resources:
            mount = each.get("mount_path") if each.get("type") == "memory_store" else None
            path = Path(mount) if isinstance(mount, str) else None
            if path is None or path.parent != self._folder or not (path.is_symlink() or path.exists()):
                continue
            try:
                move_aside(path, self._aside)
                logger.warning("moved aside what was in the place of the memory store %s", path)
                self._report_unsynchronised(leftovers_in(self._aside))
            except OSError as error:
                logger.warning("could not move %s aside: %s", path, error.strerror)

    def _downloaded(self, root: Path) -> None:
        """Find the leftovers of a store that it does not have. The others were synced."""
        leftovers = leftovers_in(self._aside)
        if leftovers:
            self._report_unsynchronised([each for each in leftovers if not self._has(root, Path(each))])

    def _has(self, root: Path, leftover: Path) -> bool:
        name, *parts = leftover.relative_to(self._aside).parts
        if re.sub(r"-\d+$", "", name) != root.name and name != root.name:
            return False
        try:
            return filecmp.cmp(leftover, root.joinpath(*parts), shallow=False)
        except OSError:
            return False
