"""Reads what the story of a session is made of, as far as the user may, and names what is missing."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime

from managed_session_api.credentials import Credential, credentials_in
from managed_session_api.resource import ManagedSession

from managed_session_cli import keys, story
from managed_session_cli.clouds import CloudError, SandboxStateError
from managed_session_cli.cluster import Cluster, Object
from managed_session_cli.errors import ClusterError, CommandError
from managed_session_cli.installation import OPERATOR, Installation
from managed_session_cli.session_sandbox import e2b_key, paths_of
from managed_session_cli.story import Moment

NEWEST_EVENTS = 500
"""Maximum number of Anthropic's events that are read, newest first."""


@dataclass(frozen=True)
class Story:
    """What is known of a session.

    Attributes:
        session: its resource.
        moments: what happened, in no order.
        events: the Kubernetes Events.
        missing: what could not be read, and how it could be.
    """

    session: ManagedSession
    moments: list[Moment]
    events: list[Object]
    missing: list[str]


def read_story(cluster: Cluster, installation: Installation, session: ManagedSession) -> Story:
    """Read everything. What the user may not read is missing, and no reason to fail."""
    now = datetime.now(UTC)
    told = Story(session, story.of_resource(session, now), [], [])
    _add_events(cluster, told)
    _add_exit_record(cluster, installation, told)
    _add_session_events(cluster, installation, told, now)
    return told


def _add_events(cluster: Cluster, told: Story) -> None:
    meta = told.session.metadata
    try:
        fields = {"involvedObject.uid": meta.uid}
        told.events.extend(cluster.list("v1", "Event", meta.namespace, fields=fields))
        told.moments.extend(story.of_events(told.events))
        if not told.events:
            told.missing.append("Events: there are none (any more). Kubernetes keeps them for an hour.")
    except ClusterError as error:
        told.missing.append(f"Events: {error}")


def _add_exit_record(cluster: Cluster, installation: Installation, told: Story) -> None:
    """Read the newest exit record, if the sandbox runs. It is not woken for this."""
    from managed_session_cli.sandbox_files import SandboxFiles  # noqa: PLC0415 - E2B's SDK

    session = told.session
    sandbox_id, claim = session.status.sandbox.id, session.status.work.claim
    if sandbox_id is None or claim is None or session.status.work.finished_at is None:
        return
    try:
        files = SandboxFiles(e2b_key(cluster, installation), sandbox_id)
        content = asyncio.run(files.read(f"{paths_of(session).exits}/{claim}.json"))
        record = json.loads(content or b"{}")
        told.moments.extend(story.of_exit_record(record))
    except SandboxStateError:
        told.missing.append("exit record: the sandbox does not run, and is not woken for this.")
    except (CommandError, CloudError) as error:
        told.missing.append(f"exit record: {error}")
    except (ValueError, AttributeError, TypeError):
        told.missing.append("exit record: it cannot be read.")


def _add_session_events(cluster: Cluster, installation: Installation, told: Story, now: datetime) -> None:
    key = _api_key(cluster, installation)
    if key is None:
        told.missing.append(
            f"Anthropic's events: set {Credential.ANTHROPIC_API_KEY.variable} to a key of the environment's "
            "workspace."
        )
        return
    from managed_session_cli.anthropic_environment import newest_events  # noqa: PLC0415 - Anthropic's SDK

    try:
        events = newest_events(key, told.session.spec.session_id, NEWEST_EVENTS)
    except CloudError as error:
        told.missing.append(f"Anthropic's events: {error}")
        return
    told.moments.extend(story.of_session_events(events, now))
    if len(events) == NEWEST_EVENTS:
        told.missing.append(f"Anthropic's events: only the newest {NEWEST_EVENTS} were read.")


def _api_key(cluster: Cluster, installation: Installation) -> str | None:
    """Return a Claude API key from the environment, or else from the operator's Secret if permitted."""
    given = credentials_in(os.environ).get(Credential.ANTHROPIC_API_KEY)
    if not given:
        try:
            stored = keys.values_of(cluster.get(installation.secret(OPERATOR)))
        except ClusterError:
            return None
        given = stored.get(Credential.ANTHROPIC_API_KEY)
    return keys.first(given) if given else None
