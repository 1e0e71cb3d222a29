"""The installation is removed with kubectl: what is refused, and what is left."""

from __future__ import annotations

import pytest

from .commands import CommandError
from .installation import DEPLOY, OPERATOR, Installation


@pytest.fixture
async def with_a_session(installation: Installation) -> str:
    """The complete installation, with a session whose sandbox is paused."""
    await installation.apply()
    async with installation.clouds.begin() as session:
        await session.say("Run: echo kept > /mnt/session/file")
        await installation.idle(session.session_id)
    return session.session_id


async def test_deletion_of_the_manifests_is_refused_while_there_are_sessions(
    installation: Installation, with_a_session: str
) -> None:
    with pytest.raises(CommandError, match="managed-sessions uninstall"):
        await installation.kubectl("delete", f"--filename={DEPLOY}", "--wait=false")
    assert await installation.resource(with_a_session)
    assert len(await installation.clouds.sandboxes_of(with_a_session)) == 1
    assert len(await installation.pods(OPERATOR)) == 2


async def test_manifests_without_sessions_are_deleted_by_kubectl_alone(installation: Installation) -> None:
    await installation.apply()
    await installation.delete_sessions()
    await installation.delete_manifests()
    assert await installation.clouds.alive() == []
    assert await installation.left_over() == []
