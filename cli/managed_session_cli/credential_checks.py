"""Tries the credentials of an installation before anything is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from managed_session_api.credentials import Credential
from managed_session_api.names import METADATA_INSTALLATION
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.anthropic_environment import AnthropicEnvironment, check_api_key
from managed_session_cli.clouds import CloudError, E2BTeam
from managed_session_cli.cluster import Object
from managed_session_cli.errors import CommandError

T = TypeVar("T")


def check_keys(credentials: dict[str, str], template: str, console: Console) -> bool:
    """Try the credentials, and return whether the template exists in the E2B key's team.

    Raises:
        CommandError: some are not accepted; the text names all of these.
    """
    problems: list[str] = []
    environment_id = credentials[Credential.ANTHROPIC_ENVIRONMENT_ID]
    _first_accepted(
        credentials[Credential.ANTHROPIC_ENVIRONMENT_KEY],
        problems,
        lambda key: AnthropicEnvironment(environment_id, key).check(),
    )
    if Credential.ANTHROPIC_API_KEY in credentials:
        archived = _first_accepted(
            credentials[Credential.ANTHROPIC_API_KEY],
            problems,
            lambda key: check_api_key(key, environment_id),
        )
        if archived:
            problems.append(f"the environment {environment_id} was archived at {archived}. Use another one.")
    signing_key = Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY
    if signing_key in credentials:
        problem = keys.signing_key_problem(credentials[signing_key])
        if problem:
            problems.append(f"{signing_key.variable} {problem}")
    exists = _first_accepted(
        credentials[Credential.E2B_API_KEY],
        problems,
        lambda key: asyncio.run(E2BTeam(key).has_template(template)),
    )
    if problems:
        raise CommandError("\n  ".join(["nothing was changed, because:", *problems]))
    names = ", ".join(sorted(credentials))
    console.print(f"Credentials  accepted: {names}")
    return bool(exists)


async def check_team(sessions: Sequence[Object], own_id: str, stored: str, wanted: str) -> None:
    """Reject a key of another E2B team: every sandbox would seem to have vanished, with its files.

    Raises:
        CommandError: the key belongs to another team.
    """
    recorded = {each.get("status", {}).get("sandbox", {}).get("id") for each in sessions}
    if recorded & await _sandboxes(wanted, own_id):
        return
    lost = recorded & await _sandboxes(stored, own_id)
    if lost:
        raise CommandError(
            "nothing was changed, because E2B_API_KEY belongs to another E2B team. That team does not have "
            f"the sandboxes of this installation's sessions ({len(lost)}), so their files would be lost. "
            "Use a key of the same team, or unset the variable to keep the cluster's key. To change the "
            "team, delete the sessions first."
        )


async def _sandboxes(value: str, own_id: str) -> set[str]:
    """Return the IDs of the installation's sandboxes that these keys see; a rejected key sees none."""
    found: set[str] = set()
    for key in keys.lines(value):
        with suppress(CloudError):
            found |= {
                each.sandbox_id for each in await E2BTeam(key).sandboxes({METADATA_INSTALLATION: own_id})
            }
    return found


def _first_accepted(value: str, problems: list[str], ask: Callable[[str], T]) -> T | None:
    """Return the answer for the first line that is accepted; during a rotation another may be rejected."""
    errors = []
    for line in keys.lines(value):
        try:
            return ask(line)
        except CloudError as error:
            errors.append(str(error))
    problems += errors[:1]
    return None
