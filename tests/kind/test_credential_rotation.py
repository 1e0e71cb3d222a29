"""A changed Secret reaches the running pods through the kubelet."""

from __future__ import annotations

from typing import Any

from managed_session_api.credentials import Credential

from ..support.waiting import eventually
from .installation import OPERATOR, WEBHOOK, Installation

ENVIRONMENT_KEY = Credential.ANTHROPIC_ENVIRONMENT_KEY
SIGNING_KEY = Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY


async def test_new_environment_key_is_used_without_a_restart_and_the_old_one_can_be_revoked(
    installation: Installation,
) -> None:
    before = await installation.lives()
    secret = installation.secrets[OPERATOR]
    old, anthropic = secret[Credential.ANTHROPIC_ENVIRONMENT_KEY], installation.clouds.anthropic_admin
    _, new = await anthropic.add_environment(installation.clouds.clouds.environment_id)
    await installation.set_secret(OPERATOR, {**secret, Credential.ANTHROPIC_ENVIRONMENT_KEY: new})
    await installation.credential_reached(OPERATOR, Credential.ANTHROPIC_ENVIRONMENT_KEY)
    await anthropic.revoke(old)
    async with installation.clouds.begin() as session:
        assert await session.say("Run: echo served") == "served"
        await installation.idle(session.session_id)
    assert await installation.lives() == before


async def test_both_signing_keys_are_accepted_during_a_rotation(installation: Installation) -> None:
    before = await installation.lives()
    old = installation.secrets[WEBHOOK][Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY]
    anthropic = installation.clouds.anthropic_admin
    (endpoint,) = await anthropic.webhooks()
    new = (await anthropic.add_webhook("http://127.0.0.1:9/only-for-its-key", events=[])).secret

    await installation.set_secret(WEBHOOK, {Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY: f"{old}\n{new}"})
    await installation.credential_reached(WEBHOOK, Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY)
    assert await answer_to_event(installation, endpoint.id, old) == 204
    assert await answer_to_event(installation, endpoint.id, new) == 204

    await installation.set_secret(WEBHOOK, {Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY: new})
    await installation.credential_reached(WEBHOOK, Credential.ANTHROPIC_WEBHOOK_SIGNING_KEY)
    assert await answer_to_event(installation, endpoint.id, old) == 401
    assert await answer_to_event(installation, endpoint.id, new) == 204
    assert await installation.lives() == before


async def answer_to_event(installation: Installation, endpoint_id: str, key: str) -> int:
    """Return the webhook's answer to an event that only this key signs."""
    anthropic = installation.clouds.anthropic_admin
    await anthropic.change_webhook(endpoint_id, secrets=[key])
    event = await anthropic.deliver(
        type="session.status_idled", object_id="sesn_unknown", endpoint_id=endpoint_id
    )

    async def first_answer() -> list[Any]:
        deliveries = (await anthropic.ledger()).deliveries
        return [each["status"] for each in deliveries if each["event_id"] == event["id"]]

    return int((await eventually("the event is answered", first_answer))[0])
