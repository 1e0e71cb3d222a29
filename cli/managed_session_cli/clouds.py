"""Calls to Anthropic and E2B that change nothing, and what their refusals mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anthropic
import e2b
import httpx
from anthropic import Anthropic
from e2b.exceptions import AuthenticationException
from managed_session_local.clouds import credential_variable

from managed_session_cli.errors import CommandError
from managed_session_cli.keys import API_KEY, E2B_API_KEY, ENVIRONMENT_KEY

_SECONDS = 20.0
_PAGE = 100
_ANY_TEMPLATE = "managed-session-worker"


class CloudError(CommandError):
    """A cloud refused or did not answer; the text never holds a credential."""


class KeyRefusedError(CloudError):
    """A credential is not accepted."""


class SandboxStateError(Exception):
    """The sandbox is not in the state that a call needs."""


class SandboxPausedError(SandboxStateError):
    """The sandbox is paused, so that its files can't be read without resuming it."""


class SandboxGoneError(SandboxStateError):
    """E2B no longer knows the sandbox."""


@dataclass(frozen=True)
class WorkSummary:
    """The environment's queue: items that wait, and since when the oldest does."""

    depth: int
    pending: int
    oldest_queued_at: datetime | None
    workers_polling: int | None


@dataclass(frozen=True)
class Sandbox:
    """A sandbox as E2B's control plane shows it."""

    sandbox_id: str
    paused: bool
    metadata: Mapping[str, str]
    started_at: datetime


class AnthropicEnvironment:
    """One self-hosted environment, through its environment key.

    Args:
        environment_id: `env_…`.
        key: the environment key.
    """

    def __init__(self, environment_id: str, key: str) -> None:
        self.environment_id = environment_id
        self._client = Anthropic(auth_token=key, timeout=_SECONDS, max_retries=1)

    def check(self) -> None:
        """Make sure that the key is this environment's key: reads one item of the work list.

        Raises:
            KeyRefusedError: it is not.
            CloudError: Anthropic could not be asked.
        """
        with _explained(credential_variable(ENVIRONMENT_KEY), self.environment_id):
            self._client.beta.environments.work.list(self.environment_id, limit=1)

    def queue(self) -> WorkSummary:
        """How much work waits (raises as `check`)."""
        with _explained(credential_variable(ENVIRONMENT_KEY), self.environment_id):
            stats = self._client.beta.environments.work.stats(self.environment_id)
        oldest: Any = stats.oldest_queued_at
        if isinstance(oldest, str):
            oldest = datetime.fromisoformat(oldest)
        return WorkSummary(stats.depth, stats.pending, oldest, stats.workers_polling)

    def stop(self, work_id: str) -> None:
        """Force-stop a work item; one that is stopped or gone already is fine (raises as `check`)."""
        try:
            with _explained(credential_variable(ENVIRONMENT_KEY), self.environment_id):
                self._client.beta.environments.work.stop(
                    work_id, environment_id=self.environment_id, force=True
                )
        except CloudError as error:
            if not isinstance(error.__cause__, anthropic.NotFoundError | anthropic.ConflictError):
                raise


def check_api_key(key: str, environment_id: str) -> str | None:
    """When the environment was archived, as an API key sees it; None while it is not.

    Raises:
        KeyRefusedError: the key is not accepted.
        CloudError: Anthropic could not be asked.
    """
    with (
        _explained(credential_variable(API_KEY), environment_id),
        Anthropic(api_key=key, timeout=_SECONDS, max_retries=1) as client,
    ):
        environment = client.beta.environments.retrieve(environment_id)
    archived = environment.archived_at
    return str(archived) if archived else None


@contextmanager
def _explained(variable: str, environment_id: str) -> Iterator[None]:
    try:
        yield
    except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
        raise KeyRefusedError(
            f"Anthropic refuses {variable} for the environment {environment_id} (HTTP {error.status_code}). "
            "Generate a key in the Claude Console for exactly this environment."
            if variable == credential_variable(ENVIRONMENT_KEY)
            else f"Anthropic refuses {variable} (HTTP {error.status_code}). Take a valid API key of the "
            "environment's workspace from the Claude Console."
        ) from error
    except anthropic.NotFoundError as error:
        raise KeyRefusedError(
            f"Anthropic knows no environment {environment_id} for {variable}: correct "
            "ANTHROPIC_ENVIRONMENT_ID (the environment may have been deleted)"
        ) from error
    except anthropic.APIStatusError as error:
        raise CloudError(f"Anthropic answered with HTTP {error.status_code}; try again later") from error
    except anthropic.APIConnectionError as error:
        raise CloudError(
            "Anthropic cannot be reached from here. Check the network, and ANTHROPIC_BASE_URL if it is set."
        ) from error


def e2b_options(key: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What E2B's SDK is to be given: the key, and the addresses that the environment names."""
    options = {
        "api_key": key,
        "api_url": environ.get("E2B_API_URL"),
        "sandbox_url": environ.get("E2B_SANDBOX_URL"),
        "domain": environ.get("E2B_DOMAIN"),
    }
    return {name: value for name, value in options.items() if value}


class E2BTeam:
    """What one E2B team has, through its API key. Nothing here wakes a sandbox."""

    def __init__(self, key: str) -> None:
        self._client = e2b.E2B(**e2b_options(key), request_timeout=_SECONDS)

    async def accepts_key(self) -> bool:
        """Whether E2B accepts the key (raises CloudError where it cannot be asked)."""
        try:
            await self.has_template(_ANY_TEMPLATE)
        except KeyRefusedError:
            return False
        return True

    async def has_template(self, name: str) -> bool:
        """Whether the team has the template `NAME:TAG`.

        Raises:
            KeyRefusedError: the key is not accepted.
            CloudError: E2B could not be asked.
        """
        with e2b_explained():
            return bool(await self._client.AsyncTemplate.exists(name))

    async def sandboxes(self, metadata: Mapping[str, str]) -> list[Sandbox]:
        """Running and paused sandboxes that carry this metadata (raises as `has_template`)."""
        found: dict[str, Sandbox] = {}
        with e2b_explained():
            states = [e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED]
            query = e2b.SandboxQuery(metadata=dict(metadata), state=states)
            pages = self._client.AsyncSandbox.list(query=query, limit=_PAGE)
            while pages.has_next:
                for info in await pages.next_items():
                    found[info.sandbox_id] = _sandbox(info)
        # Whoever kills what is listed relies on the answer's own metadata, not on the server's filter.
        return [each for each in found.values() if metadata.items() <= each.metadata.items()]

    async def sandbox(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox, without waking it; None when it is gone (raises as `has_template`)."""
        try:
            with e2b_explained():
                return _sandbox(await self._client.AsyncSandbox.get_info(sandbox_id))
        except CloudError as error:
            if isinstance(error.__cause__, e2b.SandboxNotFoundException | e2b.NotFoundException):
                return None
            raise

    async def kill(self, sandboxes: Sequence[Sandbox]) -> None:
        """Kill sandboxes; one that is gone already is fine (raises as `has_template`)."""
        for each in sandboxes:
            with e2b_explained():
                await self._client.AsyncSandbox.kill(each.sandbox_id)


def _sandbox(info: Any) -> Sandbox:
    return Sandbox(
        info.sandbox_id, info.state is e2b.SandboxState.PAUSED, dict(info.metadata or {}), info.started_at
    )


@contextmanager
def e2b_explained() -> Iterator[None]:
    """Turns what E2B's SDK raises, and lets through, into CloudError."""
    variable = credential_variable(E2B_API_KEY)
    try:
        yield
    except SandboxStateError:
        raise
    except AuthenticationException as error:
        raise KeyRefusedError(
            f"E2B refuses {variable}: take a valid key of the team from https://e2b.dev/dashboard?tab=keys"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise CloudError(
            f"E2B cannot be reached from here ({type(error).__name__}). Check the network, and E2B_API_URL "
            "or E2B_DOMAIN if they are set."
        ) from error
    except Exception as error:  # the SDK has no common base, and lets decoding errors through
        status = getattr(error, "status_code", None)
        if status == 403:
            raise KeyRefusedError(f"E2B refuses {variable} (HTTP 403): the key lacks the right") from error
        raise CloudError(
            f"E2B answered with HTTP {status}" if status else f"E2B's answer is odd ({type(error).__name__})"
        ) from error
