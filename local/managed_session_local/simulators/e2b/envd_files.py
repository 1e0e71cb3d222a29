"""envd's /health, /files and filesystem service."""

import asyncio
import os
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from managed_session_local.simulators.e2b.envd_access import (
    EnvdUser,
    basic_user,
    check_token,
    envd_user,
    resolve_path,
    running_sandbox,
    slot_of,
    tracked,
)
from managed_session_local.simulators.e2b.errors import ConnectError, FileError
from managed_session_local.simulators.e2b.gateway import Call, Gateway
from managed_session_local.simulators.e2b.host import FileOperationError
from managed_session_local.simulators.e2b.ledger import timestamp
from managed_session_local.simulators.e2b.lifecycle import Lifecycle
from managed_session_local.simulators.e2b.sandbox import Sandbox

_CHUNK_BYTES: Final = 262_144
_GZIP_WINDOW: Final = 31
_CODES: Final = {
    2: "not_found",
    13: "permission_denied",
    17: "already_exists",
    20: "invalid_argument",
    21: "invalid_argument",
}
_STATUSES: Final = {2: 404, 13: 403, 20: 400, 21: 400, 28: 507}


class FileRoutes:
    """Handlers of /health, /files and filesystem.Filesystem/*."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle

    def routes(self) -> list[Route]:
        """All routes."""
        operation = self._gateway.endpoint
        services = {
            "Stat": ("fs_stat", self._stat),
            "ListDir": ("fs_list", self._list),
            "MakeDir": ("fs_make_dir", self._make_directory),
            "Move": ("fs_move", self._move),
            "Remove": ("fs_remove", self._remove),
        }
        return [
            Route("/health", operation("health", self._health, api_key=False), methods=["GET"]),
            Route("/files", operation("files_read", self._read, api_key=False), methods=["GET"]),
            Route(
                "/files", operation("files_write", self._write, body="raw", api_key=False), methods=["POST"]
            ),
            *(
                Route(
                    f"/filesystem.Filesystem/{name}",
                    operation(label, handler, body="json", api_key=False),
                    methods=["POST"],
                )
                for name, (label, handler) in services.items()
            ),
        ]

    async def _sandbox(self, call: Call) -> Sandbox:
        sandbox = await running_sandbox(self._lifecycle, call)
        check_token(call, sandbox)
        return sandbox

    async def _health(self, call: Call) -> Response:
        await running_sandbox(self._lifecycle, call)
        return Response(status_code=204)

    def _file_user(self, call: Call, sandbox: Sandbox) -> EnvdUser:
        try:
            return envd_user(sandbox, call.request.query_params.get("username"))
        except ConnectError as error:
            raise FileError(401, error.message) from error

    async def _read(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        user = self._file_user(call, sandbox)
        path = resolve_path(call.request.query_params.get("path") or "", user, user.home)
        with tracked(call, sandbox):
            try:
                reply, descriptors = await slot_of(sandbox).process.request("file", action="read", path=path)
            except FileOperationError as error:
                if error.number == 2:
                    raise FileError(404, f"path '{path}' does not exist") from error
                raise FileError(_STATUSES.get(error.number, 500), str(error)) from error
        descriptor = descriptors[0]

        async def produce() -> AsyncIterator[bytes]:
            try:
                with tracked(call, sandbox):
                    while chunk := await asyncio.to_thread(os.read, descriptor, _CHUNK_BYTES):
                        yield chunk
            finally:
                os.close(descriptor)

        return StreamingResponse(
            produce(), media_type="application/octet-stream", headers={"Content-Length": str(reply["size"])}
        )

    async def _write(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        user = self._file_user(call, sandbox)
        path = call.request.query_params.get("path")
        with tracked(call, sandbox):
            if (call.header("content-type") or "").startswith("multipart/form-data"):
                written = await self._write_form(call, sandbox, user, path)
            else:
                if not path:
                    raise FileError(400, "path is required")
                written = [await self._write_one(sandbox, user, path, _decoded_body(call))]
        return JSONResponse(written)

    async def _write_form(
        self, call: Call, sandbox: Sandbox, user: EnvdUser, path: str | None
    ) -> list[dict[str, str]]:
        written = []
        async with call.request.form(max_files=100_000, max_part_size=1 << 31) as form:
            for name, part in form.multi_items():
                if name == "file" and isinstance(part, UploadFile):
                    target = path or part.filename or ""
                    written.append(await self._write_one(sandbox, user, target, _chunks(part)))
        return written

    async def _write_one(
        self, sandbox: Sandbox, user: EnvdUser, path: str, content: AsyncIterator[bytes]
    ) -> dict[str, str]:
        target = resolve_path(path, user, user.home)
        try:
            reply, descriptors = await slot_of(sandbox).process.request(
                "file", action="write", path=target, user=user.number
            )
        except FileOperationError as error:
            raise FileError(_STATUSES.get(error.number, 500), str(error)) from error
        try:
            with os.fdopen(descriptors[0], "wb") as stream:
                async for chunk in content:
                    await asyncio.to_thread(stream.write, chunk)
        except OSError as error:
            raise FileError(_STATUSES.get(error.errno or 0, 500), f"{path}: {error.strerror}") from error
        path = reply["entry"]["path"]
        return {"path": path, "name": path.rpartition("/")[2], "type": "file"}

    async def _operate(self, call: Call, path: str, **fields: Any) -> dict[str, Any]:
        sandbox = await self._sandbox(call)
        user = envd_user(sandbox, basic_user(call))
        resolved = resolve_path(path, user, user.home)
        if "destination" in fields:
            fields["destination"] = resolve_path(str(fields["destination"]), user, user.home)
        with tracked(call, sandbox):
            try:
                reply, _ = await slot_of(sandbox).process.request(
                    "file", path=resolved, user=user.number, **fields
                )
            except FileOperationError as error:
                raise ConnectError(_CODES.get(error.number, "internal"), f"{resolved}: {error}") from error
        return reply

    async def _stat(self, call: Call) -> Response:
        reply = await self._operate(call, str(call.body.get("path") or ""), action="stat")
        return JSONResponse({"entry": _entry(reply["entry"])})

    async def _list(self, call: Call) -> Response:
        depth = max(1, int(call.body.get("depth") or 1))
        reply = await self._operate(call, str(call.body.get("path") or ""), action="list", depth=depth)
        return JSONResponse({"entries": [_entry(entry) for entry in reply["entries"]]})

    async def _make_directory(self, call: Call) -> Response:
        reply = await self._operate(call, str(call.body.get("path") or ""), action="make_directory")
        return JSONResponse({"entry": _entry(reply["entry"])})

    async def _move(self, call: Call) -> Response:
        reply = await self._operate(
            call,
            str(call.body.get("source") or ""),
            action="move",
            destination=str(call.body.get("destination") or ""),
        )
        return JSONResponse({"entry": _entry(reply["entry"])})

    async def _remove(self, call: Call) -> Response:
        await self._operate(call, str(call.body.get("path") or ""), action="remove")
        return JSONResponse({})


def _entry(description: dict[str, Any]) -> dict[str, Any]:
    entry = dict(description)
    entry["modifiedTime"] = timestamp(datetime.fromtimestamp(entry.pop("mtime"), UTC))
    return entry


async def _chunks(part: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await part.read(_CHUNK_BYTES):
        yield chunk


async def _decoded_body(call: Call) -> AsyncIterator[bytes]:
    if call.header("content-encoding") != "gzip":
        async for chunk in call.request.stream():
            yield chunk
        return
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    async for chunk in call.request.stream():
        yield decoder.decompress(chunk)
    yield decoder.flush()
