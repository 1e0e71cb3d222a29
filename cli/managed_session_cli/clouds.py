"""Calls E2B, with errors that say what to do, and what all such errors are.

Anthropic's SDK takes a second to import; commands that need only E2B do without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import e2b
import httpx
from e2b.exceptions import AuthenticationException
from managed_session_api.credentials import Credential
from managed_session_worker.template import template_exists

from managed_session_cli.errors import CommandError

_SECONDS = 20.0
_PAGE = 100
_ANY_TEMPLATE = "managed-session-worker"


class CloudError(CommandError):
    """A cloud rejected a call or did not answer. The text never holds a credential."""


class KeyRejectedError(CloudError):
    """A cloud does not accept a credential."""


class SandboxStateError(Exception):
    """The sandbox is not in the state that a call requires."""


class SandboxPausedError(SandboxStateError):
    """The sandbox is paused: its files cannot be read without resuming it."""


class SandboxGoneError(SandboxStateError):
    """E2B no longer knows the sandbox."""


@dataclass(frozen=True)
class Sandbox:
    """A sandbox as E2B's control plane shows it."""

    sandbox_id: str
    paused: bool
    metadata: Mapping[str, str]
    started_at: datetime
    template_id: str = ""


def e2b_options(key: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options of E2B's SDK: the key, and the addresses that the environment names."""
    options = {
        "api_key": key,
        "api_url": environ.get("E2B_API_URL"),
        "sandbox_url": environ.get("E2B_SANDBOX_URL"),
        "domain": environ.get("E2B_DOMAIN"),
    }
    return {name: value for name, value in options.items() if value}


class E2BTeam:
    """Calls about one E2B team, with its API key. None of them wakes a sandbox."""

    def __init__(self, key: str) -> None:
        self._options = {**e2b_options(key), "request_timeout": _SECONDS}
        self._client = e2b.E2B(**self._options)

    async def accepts_key(self) -> bool:
        """Return whether E2B accepts the key (raises CloudError if it does not answer)."""
        try:
            await self.has_template(_ANY_TEMPLATE)
        except KeyRejectedError:
            return False
        return True

    async def has_template(self, name: str) -> bool:
        """Return whether the team has the template `NAME:TAG`.

        Raises:
            KeyRejectedError: the key is not accepted.
            CloudError: E2B did not answer, or not as expected.
        """
        with e2b_explained():
            return await template_exists(name, **self._options)

    async def all_sandboxes(self) -> list[Sandbox]:
        """Return every sandbox of the team, whoever made it (raises as `has_template`).

        A sandbox that is resumed while the list is read can be missing from it, so the running ones are read
        before and after the paused ones.
        """
        running, paused = e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED
        found: dict[str, Sandbox] = {}
        for state in (running, paused, running):
            found |= await self._listed(e2b.SandboxQuery(state=[state]))
        return list(found.values())

    async def _listed(self, query: e2b.SandboxQuery) -> dict[str, Sandbox]:
        found: dict[str, Sandbox] = {}
        with e2b_explained():
            pages = self._client.AsyncSandbox.list(query=query, limit=_PAGE)
            while pages.has_next:
                for info in await pages.next_items():
                    found[info.sandbox_id] = _sandbox(info)
        return found

    async def sandboxes(self, metadata: Mapping[str, str]) -> list[Sandbox]:
        """Return running and paused sandboxes that have this metadata (raises as `has_template`)."""
        states = [e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED]
        found = await self._listed(e2b.SandboxQuery(metadata=dict(metadata), state=states))
        # Callers kill what is listed: the sandboxes' own metadata decides, not the server's filter.
        return [each for each in found.values() if metadata.items() <= each.metadata.items()]

    async def sandbox(self, sandbox_id: str) -> Sandbox | None:
        """Return the sandbox without waking it; None if it is gone (raises as `has_template`)."""
        try:
            with e2b_explained():
                return _sandbox(await self._client.AsyncSandbox.get_info(sandbox_id))
        except CloudError as error:
            if isinstance(error.__cause__, e2b.SandboxNotFoundException | e2b.NotFoundException):
                return None
            raise

    async def snapshots(self, prefix: str, sandbox_id: str | None = None) -> list[str]:
        """Return the IDs of the snapshots whose names begin with `prefix` (raises as `has_template`).

        `sandbox_id` limits them to those that were taken of this sandbox, which may be gone.
        """
        found = []
        with e2b_explained():
            pages = self._client.AsyncSandbox.list_snapshots(sandbox_id=sandbox_id, limit=_PAGE)
            while pages.has_next:
                for info in await pages.next_items():
                    names = (info.snapshot_id, *info.names)
                    if any(each.rpartition("/")[2].startswith(prefix) for each in names):
                        found.append(str(info.snapshot_id))
        return sorted(found)

    async def delete_snapshot(self, snapshot_id: str) -> bool:
        """Delete a snapshot. Return False if a sandbox was created from it (raises as `has_template`)."""
        try:
            with e2b_explained():
                await self._client.AsyncSandbox.delete_snapshot(snapshot_id)
        except CloudError as error:
            if getattr(error.__cause__, "status_code", None) == 400:
                return False
            raise
        return True

    async def kill(self, sandboxes: Sequence[Sandbox]) -> None:
        """Kill sandboxes, except those that are gone already (raises as `has_template`)."""
        for each in sandboxes:
            with e2b_explained():
                await self._client.AsyncSandbox.kill(each.sandbox_id)


def _sandbox(info: Any) -> Sandbox:
    return Sandbox(
        info.sandbox_id,
        info.state is e2b.SandboxState.PAUSED,
        dict(info.metadata or {}),
        info.started_at,
        info.template_id,
    )


@contextmanager
def e2b_explained() -> Iterator[None]:
    """Turn everything that E2B's SDK raises into CloudError."""
    variable = Credential.E2B_API_KEY.variable
    try:
        yield
    except (SandboxStateError, CommandError):
        raise
    except AuthenticationException as error:
        raise KeyRejectedError(
            f"E2B rejected {variable}. Use a valid key of the team: https://e2b.dev/dashboard?tab=keys"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise CloudError(
            f"E2B cannot be reached from here ({type(error).__name__}). Check the network, and E2B_API_URL "
            "or E2B_DOMAIN if they are set."
        ) from error
    except Exception as error:  # the SDK has no common base class, and passes on decoding errors
        status = getattr(error, "status_code", None)
        if status == 403:
            raise KeyRejectedError(f"E2B rejected {variable} (HTTP 403): it lacks a permission.") from error
        answer = f"with HTTP {status}" if status else f"unexpectedly ({type(error).__name__})"
        raise CloudError(f"E2B answered {answer}. Try again later.") from error
