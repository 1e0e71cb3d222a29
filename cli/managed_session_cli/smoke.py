"""`managed-sessions smoke`: the guide's smoke test against a real installation, each step shown."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import anthropic
from anthropic import AsyncAnthropic
from managed_session_api.names import API_VERSION, KIND
from managed_session_api.resource import ManagedSession
from managed_session_local.conversation import Conversation
from rich.console import Console
from rich.markup import escape

from managed_session_cli import keys
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import OPERATOR, WEBHOOK, Installation
from managed_session_cli.sessions import session_of, standing
from managed_session_cli.smoke_steps import (
    ANSWER,
    FILE,
    Observation,
    Step,
    evidence,
    explanation,
    filled_in,
    health,
    hopeless,
)

_POLL_SECONDS = 0.3
_CALL_SECONDS = 30.0
_CLEAN_UP_SECONDS = 60.0

GUIDE = f"Use bash to echo {ANSWER}. Answer only with that text."
"""The message of the guide's smoke test."""
LEAVE_A_FILE = f"Run: echo {ANSWER} | tee {FILE} # Answer only with what this command prints."
FIND_THE_FILE = f"Run: cat {FILE} # Answer only with what this command prints."


@dataclass(frozen=True)
class Wishes:
    """The options of the command."""

    second_turn: bool
    keep: bool
    timeout_seconds: float


class _StepFailedError(Exception):
    """A step was not reached; what is to be said about it has been said."""


def smoke(cluster: Cluster, installation: Installation, wishes: Wishes, console: Console) -> bool:
    """Play the smoke test; whether every step was reached.

    Raises:
        CommandError: it cannot begin.
    """
    agent_id, api_key = _from_environment("ANTHROPIC_AGENT_ID"), _from_environment("ANTHROPIC_API_KEY")
    environment_id = _environment_id(cluster, installation)
    console.print(f"Cluster      {cluster.server}, Kubernetes {cluster.version()}")
    console.print(f"Environment  {environment_id}\n")
    healthy = _webhook_health(cluster, installation, console)
    test = _SmokeTest(cluster, installation, wishes, console)
    played = asyncio.run(test.play(api_key, agent_id, environment_id))
    passed = healthy and played
    console.print(
        "\n[bold green]The smoke test passed.[/]" if passed else "\n[bold red]The smoke test failed.[/]"
    )
    return passed


def _from_environment(variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise CommandError(
            f"{variable} is not set. The smoke test plays a user: it needs an API key of the environment's "
            "workspace in ANTHROPIC_API_KEY and an agent of it in ANTHROPIC_AGENT_ID."
        )
    return value


def _environment_id(cluster: Cluster, installation: Installation) -> str:
    """The environment that the installation serves, or else the one that the environment names."""
    given = keys.from_environment(os.environ).get(keys.ENVIRONMENT_ID)
    try:
        stored = keys.values_of(cluster.get(installation.secret(OPERATOR))).get(keys.ENVIRONMENT_ID)
    except ClusterError as error:
        if error.status != 403:
            raise
        stored = None
    found = (stored or given or "").split()
    if not found:
        raise CommandError(
            f"which environment? Neither the Secret {OPERATOR} nor ANTHROPIC_ENVIRONMENT_ID says it"
        )
    return found[0]


def _webhook_health(cluster: Cluster, installation: Installation, console: Console) -> bool:
    status, text = cluster.proxied(installation.system_namespace, WEBHOOK, "http", "/health")
    healthy, said = health(status, text)
    mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]![/]"}[healthy]
    console.print(f"{mark} webhook health: {escape(said)}")
    if healthy is False:
        console.print("    → run: managed-sessions doctor")
    return healthy is not False


@contextmanager
def _anthropic_explained() -> Iterator[None]:
    try:
        yield
    except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
        raise CommandError(
            f"Anthropic refuses ANTHROPIC_API_KEY (HTTP {error.status_code}): take a valid API key of the "
            "environment's workspace"
        ) from None
    except (anthropic.NotFoundError, anthropic.BadRequestError) as error:
        raise CommandError(
            f"Anthropic refuses the session (HTTP {error.status_code}): ANTHROPIC_AGENT_ID and the "
            "environment have to be of the API key's workspace, and the environment not archived"
        ) from None
    except anthropic.APIStatusError as error:
        raise CommandError(f"Anthropic answered with HTTP {error.status_code}; try again later") from None
    except anthropic.APIConnectionError:
        raise CommandError(
            "Anthropic cannot be reached from here. Check the network, and ANTHROPIC_BASE_URL if it is set."
        ) from None


class _SmokeTest:
    """One run against one installation."""

    def __init__(
        self, cluster: Cluster, installation: Installation, wishes: Wishes, console: Console
    ) -> None:
        self._cluster = cluster
        self._installation = installation
        self._wishes = wishes
        self._console = console

    async def play(self, api_key: str, agent_id: str, environment_id: str) -> bool:
        """Play the turns; whether all steps were reached."""
        async with AsyncAnthropic(api_key=api_key, timeout=_CALL_SECONDS, max_retries=2) as client:
            with _anthropic_explained():
                session = await client.beta.sessions.create(
                    agent=agent_id, environment_id=environment_id, title="managed-sessions smoke"
                )
            self._console.print(f"[green]✓[/] session created: {session.id}")
            try:
                with _anthropic_explained():
                    async with Conversation.join(client, session.id) as conversation:
                        await self._turns(conversation)
                return True
            except _StepFailedError:
                return False
            finally:
                await self._clean_up(client, session.id)

    async def _turns(self, conversation: Conversation) -> None:
        if not self._wishes.second_turn:
            await self._turn(conversation, GUIDE, 0)
            return
        served = await self._turn(conversation, LEAVE_A_FILE, 0)
        self._console.print("\nSecond turn: is the first one's file still there?\n")
        await self._turn(conversation, FIND_THE_FILE, served)

    async def _turn(self, conversation: Conversation, message: str, turns_before: int) -> int:
        """Play one turn; how many the resource has counted then."""
        seen = Observation(turns_before=turns_before)
        first = len(conversation.events)
        await conversation.send(message)
        began = reached = time.monotonic()
        self._console.print(f"[green]✓[/] message sent: {escape(message)}")
        for step in Step:
            while (shown := evidence(step, seen)) is None:
                now = time.monotonic()
                if now - began > self._wishes.timeout_seconds or hopeless(seen, now - reached):
                    self._fail(step, seen, conversation.session_id, now - began)
                await asyncio.sleep(_POLL_SECONDS)
                seen.events = conversation.events[first:]
                before = seen.resource
                seen.resource = await asyncio.to_thread(self._resource, conversation.session_id)
                if (
                    before is None
                    or seen.resource is None
                    or standing(before)[:2] != standing(seen.resource)[:2]
                ):
                    reached = now
            self._console.print(f"[green]✓[/] {step} after {time.monotonic() - began:.1f} s: {escape(shown)}")
        return seen.resource.status.turns if seen.resource else 0

    def _fail(self, step: Step, seen: Observation, session_id: str, seconds: float) -> NoReturn:
        self._console.print(f"[red]✗[/] {step}: not within {seconds:.0f} s")
        for line in explanation(step, seen):
            text = filled_in(line, session_id, self._installation.system_namespace)
            self._console.print(f"    → {text}", markup=False)
        raise _StepFailedError

    def _resource(self, session_id: str) -> ManagedSession | None:
        found = session_of(self._cluster, self._installation.namespace, session_id)
        return ManagedSession.model_validate(found) if found else None

    async def _clean_up(self, client: AsyncAnthropic, session_id: str) -> None:
        """Delete the session, and its resource, which without a webhook would stay for hours."""
        if self._wishes.keep:
            self._console.print(f"\nKept: {session_id}")
            return
        try:
            await client.beta.sessions.delete(session_id)
            gone = "deleted"
        except anthropic.APIError:
            try:  # one that runs may not be deleted
                await client.beta.sessions.archive(session_id)
                gone = "archived"
            except anthropic.APIError as error:
                said = f"{session_id} is left ({type(error).__name__}): delete it in the Claude Console"
                self._console.print(f"[yellow]![/] {said}")
                return
        removed = await self._remove_resource(session_id)
        mark = "[green]✓[/]" if removed else "[yellow]![/]"
        rest = "its sandbox is gone" if removed else "the operator has not removed its sandbox yet"
        self._console.print(f"{mark} cleaned up: session {gone}, {rest}")

    async def _remove_resource(self, session_id: str) -> bool:
        deadline = time.monotonic() + _CLEAN_UP_SECONDS
        asked = False
        while (found := await asyncio.to_thread(self._resource, session_id)) is not None:
            if not asked:
                reference = Reference(API_VERSION, KIND, found.metadata.name, self._installation.namespace)
                try:
                    await asyncio.to_thread(self._cluster.delete, reference)
                except ClusterError:
                    return False
                asked = True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True
