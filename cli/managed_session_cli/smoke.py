"""`managed-sessions smoke`: plays a smoke test against a real installation and reports each step."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NoReturn

import anthropic
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from managed_session_api.credentials import Credential, credentials_in
from managed_session_api.names import API_VERSION, KIND
from managed_session_api.resource import ManagedSession
from rich.console import Console
from rich.markup import escape

from managed_session_cli import keys
from managed_session_cli.anthropic_environment import API_KEY_ADVICE, anthropic_explained, anthropic_tls
from managed_session_cli.cluster import Cluster, Reference
from managed_session_cli.conversation import Conversation
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import OPERATOR, WEBHOOK, Installation
from managed_session_cli.sessions import ready_condition, session_of
from managed_session_cli.smoke_steps import (
    ANSWER,
    FILE,
    Step,
    TurnProgress,
    evidence,
    explanation,
    filled_in,
    health,
    should_stop_waiting,
)

_POLL_SECONDS = 0.3
_CALL_SECONDS = 30.0
_CLEAN_UP_SECONDS = 60.0

GUIDE = f"Use bash to echo {ANSWER}. Answer only with that text."
"""The message of the guide's smoke test."""
LEAVE_A_FILE = f"Run: echo {ANSWER} | tee {FILE} # Answer only with what this command prints."
FIND_THE_FILE = f"Run: cat {FILE} # Answer only with what this command prints."


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    second_turn: bool
    keep: bool
    timeout_seconds: float


class _StepFailedError(Exception):
    """A step was not reached, which has been reported."""


def smoke(cluster: Cluster, installation: Installation, options: Options, console: Console) -> bool:
    """Play the smoke test, and return whether every step was reached.

    Raises:
        CommandError: it cannot start.
    """
    agent_id, api_key = _from_environment("ANTHROPIC_AGENT_ID"), _from_environment("ANTHROPIC_API_KEY")
    environment_id = _environment_id(cluster, installation)
    console.print(f"Cluster      {cluster.server}, Kubernetes {cluster.version()}")
    console.print(f"Environment  {environment_id}\n")
    healthy = _webhook_health(cluster, installation, console)
    test = _SmokeTest(cluster, installation, options, console)
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
            f"{variable} is not set. The smoke test acts as a user: set ANTHROPIC_API_KEY to an API key of "
            "the environment's workspace, and ANTHROPIC_AGENT_ID to an agent in it."
        )
    return value


def _environment_id(cluster: Cluster, installation: Installation) -> str:
    """Return the environment that the installation serves, or else ANTHROPIC_ENVIRONMENT_ID."""
    name = Credential.ANTHROPIC_ENVIRONMENT_ID
    given = credentials_in(os.environ).get(name)
    try:
        stored = keys.values_of(cluster.get(installation.secret(OPERATOR))).get(name)
    except ClusterError as error:
        if error.status != 403:
            raise
        stored = None
    found = stored or given
    if not found:
        raise CommandError(
            f"no environment is set: neither the Secret {OPERATOR} nor ANTHROPIC_ENVIRONMENT_ID has its ID"
        )
    return keys.first(found)


def _webhook_health(cluster: Cluster, installation: Installation, console: Console) -> bool:
    status, text = cluster.proxied(installation.system_namespace, WEBHOOK, "http", "/health")
    healthy, description = health(status, text)
    mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]![/]"}[healthy]
    console.print(f"{mark} webhook: {escape(description)}")
    if healthy is False:
        console.print("    → run: managed-sessions doctor")
    return healthy is not False


def _anthropic_explained() -> AbstractContextManager[None]:
    return anthropic_explained(
        Credential.ANTHROPIC_API_KEY,
        advice=API_KEY_ADVICE,
        not_found="it rejects the session. ANTHROPIC_AGENT_ID and the environment have to belong to the API "
        "key's workspace, and the environment must not be archived.",
    )


class _SmokeTest:
    """One run against one installation."""

    def __init__(
        self, cluster: Cluster, installation: Installation, options: Options, console: Console
    ) -> None:
        self._cluster = cluster
        self._installation = installation
        self._options = options
        self._console = console

    async def play(self, api_key: str, agent_id: str, environment_id: str) -> bool:
        """Play the turns, and return whether all steps were reached."""
        async with AsyncAnthropic(
            api_key=api_key,
            timeout=_CALL_SECONDS,
            max_retries=2,
            http_client=DefaultAsyncHttpxClient(verify=anthropic_tls()),
        ) as client:
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
        if not self._options.second_turn:
            await self._turn(conversation, GUIDE, 0)
            return
        served = await self._turn(conversation, LEAVE_A_FILE, 0)
        self._console.print("\nSecond turn: reads the file that the first one wrote\n")
        await self._turn(conversation, FIND_THE_FILE, served)

    async def _turn(self, conversation: Conversation, message: str, turns_before: int) -> int:
        """Play one turn, and return how many the resource has counted."""
        seen = TurnProgress(turns_before=turns_before)
        first = len(conversation.events)
        await conversation.send(message)
        began = reached = time.monotonic()
        self._console.print(f"[green]✓[/] message sent: {escape(message)}")
        for step in Step:
            while (shown := evidence(step, seen)) is None:
                now = time.monotonic()
                if now - began > self._options.timeout_seconds or should_stop_waiting(seen, now - reached):
                    self._fail(step, seen, conversation.session_id, now - began)
                await asyncio.sleep(_POLL_SECONDS)
                seen.events = conversation.events[first:]
                before = seen.resource
                seen.resource = await asyncio.to_thread(self._resource, conversation.session_id)
                if (
                    before is None
                    or seen.resource is None
                    or ready_condition(before)[:2] != ready_condition(seen.resource)[:2]
                ):
                    reached = now
            self._console.print(f"[green]✓[/] {step} after {time.monotonic() - began:.1f} s: {escape(shown)}")
        return seen.resource.status.turns if seen.resource else 0

    def _fail(self, step: Step, seen: TurnProgress, session_id: str, seconds: float) -> NoReturn:
        self._console.print(f"[red]✗[/] {step}: not reached within {seconds:.0f} s")
        for line in explanation(step, seen):
            text = filled_in(line, session_id, self._installation.system_namespace)
            self._console.print(f"    → {text}", markup=False)
        raise _StepFailedError

    def _resource(self, session_id: str) -> ManagedSession | None:
        found = session_of(self._cluster, self._installation.namespace, session_id)
        return ManagedSession.model_validate(found) if found else None

    async def _clean_up(self, client: AsyncAnthropic, session_id: str) -> None:
        """Delete the session and its resource, which would stay for hours without a webhook."""
        if self._options.keep:
            self._console.print(f"\nKept: {session_id}")
            return
        try:
            await client.beta.sessions.delete(session_id)
            gone = "deleted"
        except anthropic.APIError:
            try:  # a running session cannot be deleted
                await client.beta.sessions.archive(session_id)
                gone = "archived"
            except anthropic.APIError as error:
                self._console.print(
                    f"[yellow]![/] cannot delete {session_id} ({type(error).__name__}): delete it in the "
                    "Claude Console"
                )
                return
        removed = await self._remove_resource(session_id)
        mark = "[green]✓[/]" if removed else "[yellow]![/]"
        rest = "its sandbox is gone" if removed else "the operator has not killed its sandbox yet"
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
