"""Calls Anthropic, with errors that say what to do."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anthropic
import httpx2
from anthropic import Anthropic, DefaultHttpxClient
from managed_session_api.credentials import Credential

from managed_session_cli.clouds import CloudError, KeyRejectedError

_SECONDS = 20.0
_EVENTS_PAGE = 100

API_KEY_ADVICE = "Use a valid API key of the environment's workspace, from the Claude Console."
"""What to do if ANTHROPIC_API_KEY is rejected."""


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


def newest_events(key: str, session_id: str, most: int) -> list[Any]:
    """Return a session's newest events, at most `most` of them, the oldest first.

    Raises:
        KeyRejectedError: the key is not accepted.
        CloudError: Anthropic does not know the session, did not answer, or not as expected.
    """
    explained = anthropic_explained(
        Credential.ANTHROPIC_API_KEY,
        advice=API_KEY_ADVICE,
        not_found=f"it does not know the session {session_id}. It was deleted, or the key is of another "
        "workspace.",
    )
    with explained, _anthropic(api_key=key) as client:
        events = client.beta.sessions.events.list(session_id, order="desc", limit=min(most, _EVENTS_PAGE))
        return list(itertools.islice(events, most))[::-1]
