"""Calls about the templates of an E2B team, which the SDK has only in its generated client."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import e2b
from e2b.api import handle_api_exception
from e2b.api.client.api.templates import delete_templates_template_id, get_v2_templates
from e2b.api.client_async import get_api_client
from e2b.connection_config import ConnectionConfig
from managed_session_worker.template import NOT_FOUND, split_name

from managed_session_cli.clouds import e2b_explained, e2b_options

_SECONDS = 20.0
_PAGE = 100
_OK, _GONE, _REFUSED = 200, 204, 400


@dataclass(frozen=True)
class Template:
    """A template of the team.

    Attributes:
        template_id: by which sandboxes name it.
        names: without namespace.
        tags: builds by tag.
        build_id: the newest finished build.
        updated_at: when that was.
        cpu_count: virtual processors.
        memory_mb: in MiB.
        finished: whether no build is under way.
    """

    template_id: str
    names: tuple[str, ...]
    build_id: str
    updated_at: datetime
    cpu_count: int
    memory_mb: int
    finished: bool
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The first name, or the ID of one that has none."""
        return self.names[0] if self.names else self.template_id

    def is_named(self, reference: str) -> bool:
        """Return whether `[NAMESPACE/]NAME[:TAG]` or `ID[:TAG]` means this template."""
        base = split_name(reference)[0].rpartition("/")[2]
        return base == self.template_id or base in self.names


class TeamTemplates:
    """The templates of one E2B team.

    Args:
        key: E2B's API key.
    """

    def __init__(self, key: str) -> None:
        self._options = {**e2b_options(key), "request_timeout": _SECONDS}

    async def all(self) -> list[Template]:
        """Return all templates, newest first.

        Raises:
            CloudError: E2B rejected the call, did not answer, or the list could not be read to its end.
        """
        client = get_api_client(ConnectionConfig(**self._options))
        found: dict[str, Template] = {}
        token: str | None = ""
        with e2b_explained():
            while token is not None:
                query: dict[str, Any] = {"next_token": token} if token else {}
                answer = await get_v2_templates.asyncio_detailed(client=client, limit=_PAGE, **query)
                if answer.status_code != _OK or not isinstance(answer.parsed, list):
                    raise handle_api_exception(answer, e2b.TemplateException)
                for each in answer.parsed:
                    found[each.template_id] = _template(each)
                token = answer.headers.get("x-next-token") or None
        return sorted(found.values(), key=lambda each: each.updated_at, reverse=True)

    async def tags(self, template: Template) -> dict[str, str]:
        """Return a template's builds by tag (raises as `all`)."""
        with e2b_explained():
            tags = await e2b.AsyncTemplate.get_tags(template.template_id, **self._options)
        return {each.tag: each.build_id for each in sorted(tags, key=lambda each: each.created_at)}

    async def delete(self, template: Template) -> bool:
        """Delete a template with all its builds; False if E2B refuses, because it is in use.

        Raises:
            CloudError: E2B did not answer, or not as expected.
        """
        client = get_api_client(ConnectionConfig(**self._options))
        with e2b_explained():
            answer = await delete_templates_template_id.asyncio_detailed(template.template_id, client=client)
            if answer.status_code in (_GONE, NOT_FOUND):
                return True
            if answer.status_code == _REFUSED:
                return False
            raise handle_api_exception(answer, e2b.TemplateException)


def _template(entry: Any) -> Template:
    names = tuple(dict.fromkeys(name.rpartition("/")[2] for name in [*entry.names, *entry.aliases]))
    return Template(
        entry.template_id,
        names,
        entry.build_id,
        entry.updated_at,
        entry.cpu_count,
        entry.memory_mb,
        entry.build_status.value not in ("building", "waiting"),
    )
