"""The control plane's template endpoints, and the upload of build archives."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from managed_session_devkit.simulators.common.times import rfc3339
from managed_session_devkit.simulators.e2b.errors import ApiError
from managed_session_devkit.simulators.e2b.gateway import Call, Gateway
from managed_session_devkit.simulators.e2b.templates import Templates

_PAGE = 100


class TemplateRoutes:
    """Handlers that call Templates."""

    def __init__(self, gateway: Gateway, templates: Templates, in_use: Callable[[str], bool]) -> None:
        self._gateway = gateway
        self._templates = templates
        self._in_use = in_use

    def routes(self) -> list[Route]:
        """Return all routes. Fixed paths come before those with a name in them."""
        operation = self._gateway.endpoint
        build = "/templates/{template_id}/builds/{build_id}"
        request = operation("template_request", self._request, body="json")
        return [
            Route("/v3/templates", request, methods=["POST"]),
            Route("/v2/templates", request, methods=["POST"]),
            Route("/templates", operation("template_list", self._list), methods=["GET"]),
            Route("/v2/templates", operation("template_list", self._list), methods=["GET"]),
            Route("/templates/tags", operation("template_tag", self._assign, body="json"), methods=["POST"]),
            Route(
                "/templates/tags", operation("template_untag", self._remove, body="json"), methods=["DELETE"]
            ),
            Route("/templates/aliases/{alias}", operation("template_alias", self._alias), methods=["GET"]),
            Route(
                "/templates/{template_id}/files/{files_hash}",
                operation("template_files", self._files),
                methods=["GET"],
            ),
            Route(
                "/_uploads/{template_id}/{files_hash}",
                operation("template_upload", self._upload, body="raw", api_key=False),
                methods=["PUT"],
            ),
            Route("/v2" + build, operation("template_build", self._build, body="json"), methods=["POST"]),
            Route(build + "/status", operation("template_status", self._status), methods=["GET"]),
            Route("/templates/{template_id}/tags", operation("template_tags", self._tags), methods=["GET"]),
            Route("/templates/{template_id}", operation("template_get", self._get), methods=["GET"]),
            # A snapshot's ID has a slash in it.
            Route(
                "/templates/{template_id:path}",
                operation("template_delete", self._delete),
                methods=["DELETE"],
            ),
        ]

    async def _request(self, call: Call) -> Response:
        template, build = self._templates.request_build(call.body)
        return JSONResponse(
            {
                "templateID": template.id,
                "buildID": build.build.build_id,
                "public": False,
                "names": [template.name],
                "aliases": [template.name],
                "tags": build.tags,
            },
            202,
        )

    async def _files(self, call: Call) -> Response:
        template_id, files_hash = _path(call, "template_id"), _path(call, "files_hash")
        archive = self._templates.upload_path(template_id, files_hash)
        url = str(call.request.url.replace(path=f"/_uploads/{template_id}/{files_hash}", query=""))
        return JSONResponse({"present": archive.is_file(), "url": url}, 201)

    async def _upload(self, call: Call) -> Response:
        archive = self._templates.upload_path(_path(call, "template_id"), _path(call, "files_hash"))
        if not call.header("content-length"):
            raise ApiError(411, "Content-Length is required")
        partial = archive.with_suffix(f".{uuid4().hex}.partial")
        await asyncio.to_thread(_create, partial)
        with partial.open("ab") as stream:
            async for chunk in call.request.stream():
                await asyncio.to_thread(stream.write, chunk)
        await asyncio.to_thread(partial.rename, archive)
        return Response(status_code=200)

    async def _build(self, call: Call) -> Response:
        self._templates.start_build(_path(call, "template_id"), _path(call, "build_id"), call.body)
        return Response(status_code=202)

    async def _status(self, call: Call) -> Response:
        query = call.request.query_params
        build = self._templates.build(_path(call, "template_id"), _path(call, "build_id"))
        return JSONResponse(build.status_json(int(query.get("logsOffset", 0)), int(query.get("limit", 100))))

    async def _alias(self, call: Call) -> Response:
        template = self._templates.find(_path(call, "alias"))
        if not template.tags:
            raise ApiError(404, f"template '{template.name}' not found")
        return JSONResponse({"templateID": template.id, "public": False})

    async def _assign(self, call: Call) -> Response:
        tags = [str(tag) for tag in call.body.get("tags") or []]
        build_id = self._templates.assign_tags(str(call.body.get("target")), tags)
        return JSONResponse({"tags": tags, "buildID": build_id}, 201)

    async def _remove(self, call: Call) -> Response:
        self._templates.remove_tags(
            str(call.body.get("name")), [str(tag) for tag in call.body.get("tags") or []]
        )
        return Response(status_code=204)

    async def _tags(self, call: Call) -> Response:
        template = self._templates.find(_path(call, "template_id"))
        return JSONResponse(
            [
                {"tag": tag, "buildID": build_id, "createdAt": rfc3339(template.tagged_at[tag])}
                for tag, build_id in template.tags.items()
            ]
        )

    async def _list(self, call: Call) -> Response:
        query = call.request.query_params
        start, limit = int(query.get("nextToken") or 0), int(query.get("limit", _PAGE))
        found = self._templates.listed_json()
        more = {"x-next-token": str(start + limit)} if len(found) > start + limit else {}
        return JSONResponse(found[start : start + limit], headers=more)

    async def _get(self, call: Call) -> Response:
        template = self._templates.find(_path(call, "template_id"))
        return JSONResponse({"templateID": template.id, "aliases": [template.name], "public": False})

    async def _delete(self, call: Call) -> Response:
        template = self._templates.find(_path(call, "template_id"))
        if self._in_use(template.id):
            raise ApiError(400, "Cannot delete a template that has running or paused sandboxes")
        self._templates.delete(template.id)
        return Response(status_code=204)


def _path(call: Call, name: str) -> str:
    return str(call.request.path_params[name])


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
