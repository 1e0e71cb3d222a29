"""Calls Anthropic and E2B, with errors that say what to do."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anthropic
import e2b
import httpx
import httpx2
from anthropic import Anthropic, DefaultHttpxClient
from e2b.exceptions import AuthenticationException
from managed_session_api.credentials import Credential

from managed_session_cli.errors import CommandError

_SECONDS = 20.0
_PAGE = 100
_ANY_TEMPLATE = "managed-session-worker"

API_KEY_ADVICE = "Use a valid API key of the environment's workspace, from the Claude Console."
"""What to do if ANTHROPIC_API_KEY is rejected."""


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
class WorkSummary:
    """The state of an environment's queue.

    Attributes:
        depth: items that wait.
        pending: items that were offered and not acknowledged.
        oldest_queued_at: since when the oldest item waits.
        workers_polling: pollers of the last 30 seconds, if Anthropic reports them.
    """

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
    """Calls about one self-hosted environment, with its environment key.

    Args:
        environment_id: `env_…`.
        key: the environment key.
    """

    def __init__(self, environment_id: str, key: str) -> None:
        self.environment_id = environment_id
        self._client = _anthropic(auth_token=key)

    def check(self) -> None:
        """Verify that the key belongs to this environment, by reading one item of the work list.

        Raises:
            KeyRejectedError: it does not.
            CloudError: Anthropic did not answer, or not as expected.
        """
        with self._explained():
            self._client.beta.environments.work.list(self.environment_id, limit=1)

    def queue(self) -> WorkSummary:
        """Return how much work waits (raises as `check`)."""
        with self._explained():
            stats = self._client.beta.environments.work.stats(self.environment_id)
        oldest: Any = stats.oldest_queued_at
        if isinstance(oldest, str):
            oldest = datetime.fromisoformat(oldest)
        return WorkSummary(stats.depth, stats.pending, oldest, stats.workers_polling)

    def stop(self, work_id: str) -> None:
        """Force-stop a work item, unless it is stopped or gone already (raises as `check`)."""
        with self._explained(), suppress(anthropic.NotFoundError, anthropic.ConflictError):
            self._client.beta.environments.work.stop(work_id, environment_id=self.environment_id, force=True)

    def _explained(self) -> AbstractContextManager[None]:
        return anthropic_explained(
            Credential.ANTHROPIC_ENVIRONMENT_KEY,
            advice=f"Generate a key for the environment {self.environment_id} in the Claude Console.",
            not_found=_no_environment(self.environment_id),
        )


def anthropic_tls() -> ssl.SSLContext:
    """Return what Anthropic's SDK verifies with, without the strict check that Python 3.13 adds."""
    context = httpx2.create_ssl_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _anthropic(**key: str) -> Anthropic:
    client = DefaultHttpxClient(verify=anthropic_tls())
    return Anthropic(**key, timeout=_SECONDS, max_retries=1, http_client=client)  # type: ignore[arg-type]


def check_api_key(key: str, environment_id: str) -> str | None:
    """Return when the environment was archived, read with an API key; None if it is not archived.

    Raises:
        KeyRejectedError: the key is not accepted.
        CloudError: Anthropic did not answer, or not as expected.
    """
    explained = anthropic_explained(
        Credential.ANTHROPIC_API_KEY, advice=API_KEY_ADVICE, not_found=_no_environment(environment_id)
    )
    with explained, _anthropic(api_key=key) as client:
        environment = client.beta.environments.retrieve(environment_id)
    archived = environment.archived_at
    return str(archived) if archived else None


def _no_environment(environment_id: str) -> str:
    return (
        f"it does not know the environment {environment_id}. Correct ANTHROPIC_ENVIRONMENT_ID; the "
        "environment may have been deleted."
    )


@contextmanager
def anthropic_explained(credential: Credential, *, advice: str, not_found: str) -> Iterator[None]:
    """Turn what Anthropic's SDK raises into CloudError.

    Args:
        credential: the one in use.
        advice: what to do if it is rejected.
        not_found: what it means if Anthropic does not know what the call names, or finds it invalid.
    """
    try:
        yield
    except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
        raise KeyRejectedError(
            f"Anthropic rejected {credential.variable} (HTTP {error.status_code}). {advice}"
        ) from error
    except (anthropic.NotFoundError, anthropic.BadRequestError) as error:
        raise CloudError(f"Anthropic answered with HTTP {error.status_code}: {not_found}") from error
    except anthropic.APIStatusError as error:
        raise CloudError(f"Anthropic answered with HTTP {error.status_code}. Try again later.") from error
    except anthropic.APIConnectionError as error:
        raise CloudError(
            "Anthropic cannot be reached from here. Check the network, and ANTHROPIC_BASE_URL if it is set."
        ) from error


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
        self._client = e2b.E2B(**e2b_options(key), request_timeout=_SECONDS)

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
            return bool(await self._client.AsyncTemplate.exists(name))

    async def sandboxes(self, metadata: Mapping[str, str]) -> list[Sandbox]:
        """Return running and paused sandboxes that have this metadata (raises as `has_template`)."""
        found: dict[str, Sandbox] = {}
        with e2b_explained():
            states = [e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED]
            query = e2b.SandboxQuery(metadata=dict(metadata), state=states)
            pages = self._client.AsyncSandbox.list(query=query, limit=_PAGE)
            while pages.has_next:
                for info in await pages.next_items():
                    found[info.sandbox_id] = _sandbox(info)
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

    async def kill(self, sandboxes: Sequence[Sandbox]) -> None:
        """Kill sandboxes, except those that are gone already (raises as `has_template`)."""
        for each in sandboxes:
            with e2b_explained():
                await self._client.AsyncSandbox.kill(each.sandbox_id)


def _sandbox(info: Any) -> Sandbox:
    return Sandbox(
        info.sandbox_id, info.state is e2b.SandboxState.PAUSED, dict(info.metadata or {}), info.started_at
    )


@contextmanager
def e2b_explained() -> Iterator[None]:
    """Turn everything that E2B's SDK raises into CloudError."""
    variable = Credential.E2B_API_KEY.variable
    try:
        yield
    except SandboxStateError:
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
