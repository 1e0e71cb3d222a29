"""Snapshots that outlive their sandbox: `POST /sandboxes/{id}/snapshots` and `GET /snapshots`.

As in E2B, a snapshot is a template. It has the sandbox's files. Processes cannot be copied: a sandbox that is
created from a snapshot with memory has the start command's process, started anew, and no other. One from a
snapshot without memory has none, and an empty /tmp.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.gateway import Call, Gateway
from managed_session_devkit.simulators.e2b.host import SandboxHostError
from managed_session_devkit.simulators.e2b.lifecycle import Lifecycle, not_found
from managed_session_devkit.simulators.e2b.sandbox import Sandbox
from managed_session_devkit.simulators.e2b.snapshots import copy_files, link_files
from managed_session_devkit.simulators.e2b.templates import Templates, identifier

TEAM = "team"
"""The namespace in which E2B puts the names of a team's snapshots."""


@dataclass(frozen=True)
class KeptSnapshot:
    """A snapshot, by the template that it is."""

    template_id: str
    name: str | None
    sandbox_id: str

    def as_json(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        full = f"{TEAM}/{self.name}:default" if self.name else f"{self.template_id}:default"
        return {"snapshotID": full, "names": [full] if self.name else []}


class SnapshotRoutes:
    """Handlers of the snapshots' endpoints."""

    def __init__(self, gateway: Gateway, lifecycle: Lifecycle, templates: Templates, folder: Path) -> None:
        self._gateway = gateway
        self._lifecycle = lifecycle
        self._templates = templates
        self._folder = folder
        self._kept: dict[str, KeptSnapshot] = {}

    def routes(self) -> list[Route]:
        """Return all routes."""
        operation = self._gateway.endpoint
        return [
            Route(
                "/sandboxes/{sandbox_id}/snapshots",
                operation("snapshot", self._take, body="json"),
                methods=["POST"],
            ),
            Route("/snapshots", operation("snapshot_list", self._list), methods=["GET"]),
        ]

    async def _take(self, call: Call) -> Response:
        assert call.sandbox_id is not None
        if call.header("x-api-key") in self._lifecycle.settings.other_teams_keys:
            raise not_found(call.sandbox_id)
        sandbox = self._lifecycle.get(call.sandbox_id)
        async with sandbox.lock:
            if sandbox.state != "running" or sandbox.crashed or sandbox.runtime is None:
                raise ApiError(409, f'Sandbox "{sandbox.id}" is not running')
            call.takes_time_itself = True
            sandbox.snapshotting = True
            try:
                snapshot = await self._copied(sandbox, call)
            finally:
                sandbox.snapshotting = False
        self._kept[snapshot.template_id] = snapshot
        return JSONResponse(snapshot.as_json(), 201)

    async def _copied(self, sandbox: Sandbox, call: Call) -> KeptSnapshot:
        """Copy the files of the stopped sandbox, and let it go on."""
        assert sandbox.runtime is not None
        runtime, layer = sandbox.runtime, self._folder / "layers" / f"snapshot-{uuid4().hex}"
        layer.parent.mkdir(parents=True, exist_ok=True)
        try:
            runtime.table.freeze()
            await runtime.process.freeze(
                sever_connections=self._lifecycle.settings.sever_connections,
                silently=self._lifecycle.settings.cut_silently,
            )
            await self._gateway.take_time(call)
            if runtime.machine.disk_megabytes is not None:
                raise SandboxHostError("a limited disk has no snapshot")
            await copy_files(runtime.root, layer)
            await asyncio.to_thread(remove_sockets, layer)
            for tree in sandbox.build.shared:
                await link_files(f"{sandbox.build.layer}{tree}", f"{layer}{tree}")
        except SandboxHostError as error:
            raise ApiError(500, f"Error creating snapshot: {error}") from error
        finally:
            runtime.table.thaw()
            await runtime.process.thaw()
        full = call.body.get("memory") is not False
        if not full:
            await asyncio.to_thread(shutil.rmtree, layer / "tmp", ignore_errors=True)
            await asyncio.to_thread((layer / "tmp").mkdir)
            await asyncio.to_thread((layer / "tmp").chmod, 0o1777)
        name = str(call.body.get("name") or "") or None
        build = replace(
            sandbox.build,
            template_id=identifier(),
            build_id=str(uuid4()),
            layer=layer,
            start_command=sandbox.build.start_command if full else "",
            ready_command=sandbox.build.ready_command if full else "",
        )
        template_id = self._templates.add(build, name)
        return KeptSnapshot(template_id, name, sandbox.id)

    async def _list(self, call: Call) -> Response:
        query = call.request.query_params
        kept = [each for each in self._kept.values() if self._templates.has(each.template_id)]
        if query.get("sandboxID"):
            kept = [each for each in kept if each.sandbox_id == query["sandboxID"]]
        if wanted := query.get("name"):
            base = wanted.rpartition("/")[2].partition(":")[0]
            kept = [each for each in kept if base in (each.name, each.template_id)]
        start, limit = int(query.get("nextToken") or 0), int(query.get("limit") or 100)
        more = start + limit < len(kept)
        return JSONResponse(
            [each.as_json() for each in kept[start : start + limit]],
            headers={"x-next-token": str(start + limit)} if more else {},
        )


def remove_sockets(folder: Path) -> None:
    """Remove sockets and pipes from a copy, which has none of the processes that listened on them."""
    for parent, _, files in os.walk(folder):
        for each in files:
            path = Path(parent, each)
            if stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFSOCK, stat.S_IFIFO):
                path.unlink()
