"""The installation's ID marks its sandboxes; by default it is the UID of the operator's namespace."""

from __future__ import annotations

from managed_session_api import names

from ..support.sessions import begin
from ..support.systems import StartSystem


async def test_sandboxes_bear_the_uid_of_the_operators_namespace(start_system: StartSystem) -> None:
    system = await start_system(operator_settings={"installation_id": ""})
    uid = await system.kubectl(
        "get", "namespace", system.system_namespace, "--output=jsonpath={.metadata.uid}"
    )
    async with begin(system) as conversation:
        assert await conversation.say("Run: echo hello") == "hello"
    (sandbox,) = await system.e2b_admin.sandboxes()
    assert sandbox.metadata[names.METADATA_INSTALLATION] == uid
