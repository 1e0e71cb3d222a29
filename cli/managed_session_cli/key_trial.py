"""The keys that an installation is given are tried out before anything is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from managed_session_api.names import METADATA_INSTALLATION
from rich.console import Console

from managed_session_cli import keys
from managed_session_cli.clouds import AnthropicEnvironment, CloudError, E2BTeam, check_api_key
from managed_session_cli.cluster import Object
from managed_session_cli.errors import CommandError

T = TypeVar("T")


def check_keys(credentials: dict[str, str], template: str, console: Console) -> bool:
    """Try the keys; whether the template exists, which the E2B key's check asks."""
    problems: list[str] = []
    environment_id = credentials[keys.ENVIRONMENT_ID]
    _first_accepted(
        credentials[keys.ENVIRONMENT_KEY],
        problems,
        lambda key: AnthropicEnvironment(environment_id, key).check(),
    )
    if keys.API_KEY in credentials:
        archived = _first_accepted(
            credentials[keys.API_KEY], problems, lambda key: check_api_key(key, environment_id)
        )
        if archived:
            problems.append(f"the environment {environment_id} was archived at {archived}: use another one")
    if keys.SIGNING_KEY in credentials:
        problem = keys.signing_key_problem(credentials[keys.SIGNING_KEY])
        if problem:
            problems.append(f"{keys.credential_variable(keys.SIGNING_KEY)} {problem}")
    exists = _first_accepted(
        credentials[keys.E2B_API_KEY], problems, lambda key: asyncio.run(E2BTeam(key).has_template(template))
    )
    if problems:
        raise CommandError("\n  ".join(["nothing was changed, because:", *problems]))
    names = ", ".join(sorted(credentials))
    console.print(f"Keys         accepted: {names}")
    return bool(exists)


async def check_team(sessions: Sequence[Object], own_id: str, stored: str, wanted: str) -> None:
    """Refuse a key of another E2B team: every sandbox would look vanished, and its files would be lost."""
    recorded = {each.get("status", {}).get("sandbox", {}).get("id") for each in sessions}
    if recorded & await _sandboxes(wanted, own_id):
        return
    lost = recorded & await _sandboxes(stored, own_id)
    if lost:
        raise CommandError(
            "nothing was changed, because E2B_API_KEY is of another E2B team, which has none of the "
            f"{len(lost)} sandboxes of this installation's sessions: their files would be lost. "
            "Take a key of the same team, or unset the variable to keep the cluster's key; to move, delete "
            "the sessions first."
        )


async def _sandboxes(value: str, own_id: str) -> set[str]:
    """IDs of the installation's sandboxes that a credential's keys see; none where they are not accepted."""
    found: set[str] = set()
    for key in keys.lines(value):
        with suppress(CloudError):
            found |= {
                each.sandbox_id for each in await E2BTeam(key).sandboxes({METADATA_INSTALLATION: own_id})
            }
    return found


def _first_accepted(value: str, problems: list[str], ask: Callable[[str], T]) -> T | None:
    """What the first accepted line of a credential answers; while it is rotated, another may be refused."""
    refusals = []
    for line in keys.lines(value):
        try:
            return ask(line)
        except CloudError as error:
            refusals.append(str(error))
    problems += refusals[:1]
    return None
