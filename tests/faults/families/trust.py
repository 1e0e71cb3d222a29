"""Authorities that a sandbox is to trust, and that nobody has made yet."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from ...support.arrangements import QUEUE_ONLY
from ...support.certificates import issue_bare
from ...support.sessions import becomes, condition, sandboxes_of
from ...support.waiting import eventually
from ..own_class import own_class
from ..row import Row
from ..scenario import Scenario

FAMILY = "trust"
NAME, KEY = "company", "ca.pem"


def _authority() -> str:
    with TemporaryDirectory() as folder:
        return issue_bare(Path(folder)).ca.read_text()


async def _missing_at_first(scenario: Scenario) -> None:
    """The session waits without a sandbox, says for what, and goes on when all of it is there."""
    system = scenario.system
    authorities = {"ConfigMap": _authority(), "Secret": _authority()}

    async def make(kind: str, data: str) -> None:
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": NAME}, data: {KEY: authorities[kind]}}
        await system.kubectl("create", "--filename=-", input=json.dumps(body))

    reference = {"name": NAME, "key": KEY}
    trust = {"certificateAuthorities": [{"configMapRef": reference}, {"secretRef": reference}]}
    # A line of its signature tells an authority from all others.
    lines = [each.splitlines()[-3] for each in authorities.values()]
    search = " ".join(f"-e {each}" for each in lines)
    async with own_class(scenario, sandbox={"trust": trust}) as agent:
        conversation = await scenario.begin(agent)
        session_id = conversation.session_id
        await scenario.send(conversation, f"Run: grep --count --fixed-strings {search} $SSL_CERT_FILE")
        await becomes(system, session_id, "ReferenceInvalid")
        await make("ConfigMap", "data")

        async def secret_awaited() -> bool:
            return f"Secret {NAME} does not exist" in (await condition(system, session_id)).get("message", "")

        await eventually("only the Secret is awaited", secret_awaited)
        assert await sandboxes_of(system, session_id) == [], "it waits without a sandbox"
        await make("Secret", "stringData")
        assert await conversation.answer() == "2"
        await scenario.settled(conversation)
        for kind in authorities:
            await system.kubectl("delete", kind, NAME)


ROWS = [
    Row(
        FAMILY,
        "the ConfigMap and the Secret with authorities are missing and come later",
        _missing_at_first,
        arrangement=QUEUE_ONLY,
    )
]
