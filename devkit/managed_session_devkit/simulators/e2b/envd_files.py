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

from managed_session_devkit.simulators.common.times import now, rfc3339
from managed_session_devkit.simulators.e2b.byte_ranges import part_of
from managed_session_devkit.simulators.e2b.envd_access import (
    EnvdUser,
    basic_user,
    check_token,
    envd_user,
    process_environment,
    resolve_path,
    running_sandbox,
    runtime_of,
    tracked,
)
from managed_session_devkit.simulators.e2b.errors import ConnectError, FileError
from managed_session_devkit.simulators.e2b.gateway import Call, Gateway
from managed_session_devkit.simulators.e2b.host import FileOperationError
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle
from managed_session_devkit.simulators.e2b.sandbox import Sandbox

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
_WRITE_STATUSES: Final = {13: 403, 21: 400, 28: 507}
"""For an impossible path, below a file or in /proc, envd answers 500."""


class FileRoutes:
    """Handles /health, /files and filesystem.Filesystem/*."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle

    def routes(self) -> list[Route]:
        """Return all routes."""
        operation = self._gateway.endpoint
        filesystem = {
            "Stat": ("fs_stat", self._stat),
            "ListDir": ("fs_list", self._list),
            "MakeDir": ("fs_make_dir", self._make_directory),
            "Move": ("fs_move", self._move),
            "Remove": ("fs_remove", self._remove),
        }
        return [
            Route("/health", operation("health", self._health, api_key=False), methods=["GET"]),
            Route("/envs", operation("envd_envs", self._envs, api_key=False), methods=["GET"]),
            Route("/metrics", operation("envd_metrics", self._metrics, api_key=False), methods=["GET"]),
            Route("/files", operation("files_read", self._read, api_key=False), methods=["GET"]),
            Route(
                "/files", operation("files_write", self._write, body="raw", api_key=False), methods=["POST"]
            ),
            *self._gateway.service("filesystem.Filesystem", filesystem, "json"),
        ]

    def fallback(self) -> Route:
        """Return the routes for paths that envd serves only to its own machine, or not at all."""
        endpoint = self._gateway.endpoint("envd_unknown", self._nothing, api_key=False)
        return Route("/{path:path}", endpoint, methods=["GET", "POST", "PUT", "DELETE"])

    async def _nothing(self, call: Call) -> Response:
        await running_sandbox(self._lifecycle, call)
        return JSONResponse({"code": 404, "message": f"{call.request.url.path} not found"}, 404)

    async def _envs(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        return JSONResponse(process_environment(sandbox, envd_user(sandbox, None), {}))

    async def _metrics(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        total = sandbox.build.memory_mb * 1024 * 1024
        return JSONResponse(
            {
                "ts": int(now().timestamp()),
                "cpu_count": sandbox.build.cpu_count,
                "cpu_used_pct": 0.0,
                "mem_total": total,
                "mem_used": total // 10,
            }
        )

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
                reply, descriptors = await runtime_of(sandbox).process.request(
                    "file", action="read", path=path
                )
            except FileOperationError as error:
                if error.number == 2:
                    raise FileError(404, f"path '{path}' does not exist") from error
                raise FileError(_STATUSES.get(error.number, 500), str(error)) from error
        descriptor, part = descriptors[0], part_of(reply["size"], call.header("range"))

        async def produce() -> AsyncIterator[bytes]:
            try:
                os.lseek(descriptor, part.start, os.SEEK_SET)
                left = part.length
                with tracked(call, sandbox):
                    while left and (
                        chunk := await asyncio.to_thread(os.read, descriptor, min(left, _CHUNK_BYTES))
                    ):
                        left -= len(chunk)
                        yield chunk
            finally:
                os.close(descriptor)

        return StreamingResponse(
            produce(), part.status, media_type="application/octet-stream", headers=part.headers
        )

    async def _write(self, call: Call) -> Response:
        sandbox = await self._sandbox(call)
        user = self._file_user(call, sandbox)
        path = call.request.query_params.get("path")
        with tracked(call, sandbox):
            kind = call.header("content-type") or ""
            if (call.header("content-encoding") or "identity") not in ("identity", "gzip"):
                raise FileError(400, f"unsupported content encoding: {call.header('content-encoding')}")
            if kind.startswith("multipart/form-data"):
                written = await self._write_form(call, sandbox, user, path)
            elif not kind.startswith("application/octet-stream"):
                raise FileError(400, f"unsupported content type: {kind}")
            else:
                if not path:
                    raise FileError(400, "path is required")
                content = _at_speed(_decoded_body(call), self._lifecycle.settings.upload_bytes_per_second)
                written = [await self._write_one(sandbox, user, path, content)]
        return JSONResponse(written)

    async def _write_form(
        self, call: Call, sandbox: Sandbox, user: EnvdUser, path: str | None
    ) -> list[dict[str, str]]:
        written: list[dict[str, str]] = []
        async with call.request.form(max_files=100_000, max_part_size=1 << 31) as form:
            for name, part in form.multi_items():
                if name == "file" and isinstance(part, UploadFile):
                    # The name is not percent-decoded: a quotation mark arrives as %22.
                    target = path or part.filename or ""
                    if any(each["path"] == resolve_path(target, user, user.home) for each in written):
                        raise FileError(400, f"you cannot upload multiple files to the same path '{target}'")
                    written.append(await self._write_one(sandbox, user, target, _chunks(part)))
        return written

    async def _write_one(
        self, sandbox: Sandbox, user: EnvdUser, path: str, content: AsyncIterator[bytes]
    ) -> dict[str, str]:
        target = resolve_path(path, user, user.home)
        try:
            reply, descriptors = await runtime_of(sandbox).process.request(
                "file", action="write", path=target, user=user.number
            )
        except FileOperationError as error:
            raise FileError(_WRITE_STATUSES.get(error.number, 500), str(error)) from error
        try:
            with os.fdopen(descriptors[0], "wb") as stream:
                async for chunk in content:
                    await asyncio.to_thread(stream.write, chunk)
        except OSError as error:
            raise FileError(
                _WRITE_STATUSES.get(error.errno or 0, 500), f"{path}: {error.strerror}"
            ) from error
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
                reply, _ = await runtime_of(sandbox).process.request(
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
    entry["modifiedTime"] = rfc3339(datetime.fromtimestamp(entry.pop("mtime"), UTC))
    return entry


async def _chunks(part: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await part.read(_CHUNK_BYTES):
        yield chunk


async def _at_speed(content: AsyncIterator[bytes], bytes_per_second: float | None) -> AsyncIterator[bytes]:
    async for chunk in content:
        if bytes_per_second is not None:
            await asyncio.sleep(len(chunk) / bytes_per_second)
        yield chunk


async def _decoded_body(call: Call) -> AsyncIterator[bytes]:
    if call.header("content-encoding") != "gzip":
        async for chunk in call.request.stream():
            yield chunk
        return
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    try:
        async for chunk in call.request.stream():
            yield decoder.decompress(chunk)
        yield decoder.flush()
    except zlib.error as error:
        raise FileError(400, f"error decompressing the body: {error}") from error
    if not decoder.eof:
        raise FileError(400, "error decompressing the body: unexpected end")
