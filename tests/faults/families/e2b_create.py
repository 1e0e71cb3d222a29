"""E2B's create: refused, lost, late, repeated, or answered from its idempotency record."""

from __future__ import annotations

import json
from typing import Any

from managed_session_api import names
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox

from ...support.arrangements import SHORT_LIMITS
from ...support.held import WAIT, let_go
from ...support.sessions import becomes, resource, sandboxes_of, warned
from ...support.waiting import eventually
from ..kubectl_actions import frozen, patch
from ..row import Outcome, Play, Row
from ..scenario import Scenario

FAMILY = "E2B create"
HELD_SECONDS = 6
"""Longer than the operator's patience with a create."""

TOO_MANY_REQUESTS: dict[str, Any] = {
    "status": 429,
    "headers": {"Retry-After": "2"},
    "body": {"code": 429, "message": "Rate limit exceeded"},
}
_LAG: dict[str, Any] = {"list_lag_seconds": 3}
_LONG_LAG: dict[str, Any] = {"list_lag_seconds": 30}
"""Nothing new is listed until all is calm again."""


def _create_meets(
    *actions: dict[str, Any] | str, sandboxes: int = 1, warning: str | None = None, **settings: Any
) -> Play:
    """The creates of a new session meet these faults, one after the other; its message is answered."""

    async def play(scenario: Scenario) -> None:
        admin = scenario.system.e2b_admin
        await scenario.e2b_settings(**settings)
        conversation = await scenario.begin()
        session_id = conversation.session_id
        match = {"metadata": {names.METADATA_SESSION: session_id}}
        added = {(await admin.add_fault("create", action, match=match))["id"] for action in actions}
        assert "served" in await scenario.say(conversation, "Run: echo served")
        met = {fault["id"] for fault in await admin.faults() if fault["hits"]}
        assert added <= met, "each fault was met"

        async def all_made() -> bool:
            return len(await sandboxes_of(scenario.system, session_id)) >= sandboxes

        await eventually("every create is done", all_made)
        made = len(await sandboxes_of(scenario.system, session_id))
        assert made == sandboxes, f"{made} sandboxes were made"
        if warning is not None:
            await warned(scenario.system, session_id, warning)

    return play


async def _quota_is_reached(scenario: Scenario) -> None:
    first, second = await scenario.begin(), await scenario.begin()
    assert "one" in await scenario.say(first, "Run: echo one")
    await scenario.e2b_settings(max_concurrent_sandboxes=1)
    await scenario.send(first, f"Run: touch running; {WAIT}; echo first done")

    async def works() -> SimulatedSandbox | None:
        # Its sandbox may be paused once more before it is the one that runs.
        running = await sandboxes_of(scenario.system, first.session_id, "running")
        return next((each for each in running if each.path("/mnt/session/running").exists()), None)

    sandbox = await eventually("the first one's command runs", works)
    await scenario.send(second, "Run: echo second done")
    await becomes(scenario.system, second.session_id, "SandboxQuotaExceeded")
    let_go(sandbox)
    assert "first done" in await first.answer()
    assert "second done" in await second.answer()


async def _replayed_sandbox_is_dead(scenario: Scenario) -> None:
    """The sandbox of a create whose answer is lost dies before the key is sent again."""
    admin = scenario.system.e2b_admin
    conversation = await scenario.begin()
    session_id = conversation.session_id
    await admin.add_fault(
        "create",
        {"status": 504, "after_commit": True, "seconds": 60},
        match={"metadata": {names.METADATA_SESSION: session_id}},
    )
    await scenario.send(conversation, "Run: echo served")
    (lost,) = await eventually("the sandbox is made", lambda: sandboxes_of(scenario.system, session_id))
    await admin.vanish(lost.id)
    await admin.clear_faults()
    assert "served" in await conversation.answer()
    assert len(await sandboxes_of(scenario.system, session_id)) == 2


async def _body_changes_between_two_sends(scenario: Scenario) -> None:
    """The spec is edited while a create's answer is lost and listings lag: the key fits no more."""
    admin = scenario.system.e2b_admin
    conversation = await scenario.begin()
    session_id = conversation.session_id
    await scenario.e2b_settings(**_LONG_LAG)
    await admin.add_fault(
        "create",
        {"status": 504, "after_commit": True, "seconds": 60},
        match={"metadata": {names.METADATA_SESSION: session_id}},
    )
    await scenario.send(conversation, "Run: echo served")
    await eventually("the sandbox is made", lambda: sandboxes_of(scenario.system, session_id))
    async with frozen(scenario):
        await patch(scenario, conversation, {"spec": {"sandbox": {"metadata": {"team": "red"}}}})
    await admin.clear_faults()
    assert "served" in await conversation.answer()
    statuses = [call.get("status") for call in (await admin.ledger(operation="create")).calls]
    assert 409 in statuses, "the key was sent with another body"


async def _create_is_refused_for_good(scenario: Scenario) -> None:
    """The spec asks for what E2B refuses: said, with no further harm, and served once it is mended."""
    conversation = await scenario.begin()
    session_id = conversation.session_id
    await eventually("the resource is there", lambda: resource(scenario.system, session_id))
    name = names.resource_name(session_id)
    for metadata, reason in (("no-such-template:1", "TemplateNotFound"), (None, None)):
        await scenario.system.kubectl(
            "patch", names.PLURAL, name, "--type=merge", "--patch",
            json.dumps({"spec": {"sandbox": {"template": metadata}}}),
        )  # fmt: skip
        if reason is not None:
            await scenario.send(conversation, "Run: echo served")
            await becomes(scenario.system, session_id, reason)
    assert "served" in await conversation.answer()
    assert len(await sandboxes_of(scenario.system, session_id)) == 1


def _row(name: str, play: Play, **outcome: Any) -> Row:
    return Row(FAMILY, name, play, arrangement=SHORT_LIMITS, outcome=Outcome(**outcome))


_AFTER: dict[str, Any] = {"after_commit": True}

ROWS = [
    _row("create is lost on its way", _create_meets("drop_before")),
    _row("create's answer is lost", _create_meets("drop_after_commit")),
    _row("create's answer is lost and listings lag", _create_meets("drop_after_commit", **_LAG)),
    _row(
        "create hangs past its limit and is never done",
        _create_meets({"status": 504, "seconds": HELD_SECONDS}),
    ),
    _row(
        "create hangs past its limit and is done long after",
        _create_meets({"action": "hang", "seconds": HELD_SECONDS}),
    ),
    _row(
        "create is done and its answer hangs past the limit",
        _create_meets({"action": "hang_after_commit", "seconds": HELD_SECONDS}, **_LAG),
    ),
    _row("create is answered 504 and not done", _create_meets({"status": 504})),
    _row("create is answered 504 and done", _create_meets({"status": 504, **_AFTER}, **_LAG)),
    _row("create is answered 500", _create_meets({"status": 500}, warning="SandboxCreateFailed")),
    _row("create is answered 500 and done", _create_meets({"status": 500, **_AFTER}, sandboxes=2)),
    _row("create is answered 502 twice", _create_meets({"status": 502}, {"status": 502})),
    _row(
        "create is answered 503 and says not to retry",
        _create_meets({"status": 503, "headers": {"Should-Retry": "false"}}),
    ),
    _row(
        "create is answered 429 for too many requests",
        _create_meets(TOO_MANY_REQUESTS, TOO_MANY_REQUESTS, warning="SandboxRateLimited"),
    ),
    _row(
        "create is answered 429 without a word",
        _create_meets({"status": 429}, warning="SandboxQuotaExceeded"),
    ),
    _row("the team's concurrency limit is reached", _quota_is_reached),
    _row(
        "a create with the same key is in progress",
        _create_meets({"action": "drop_while_in_progress", "seconds": 3}, **_LAG),
    ),
    _row("a create's key was used with another body", _body_changes_between_two_sends),
    _row(
        "an error is recorded under a create's key",
        _create_meets({"status": 503, "recorded": True}),
    ),
    _row("a create's key is answered with a sandbox killed since", _replayed_sandbox_is_dead),
    _row("the outcome of a create's key is unknown", _create_meets("idempotency_outcome_unknown")),
    _row(
        "the outcome of a create's key is unknown and listings lag",
        _create_meets("idempotency_outcome_unknown", sandboxes=2, **_LONG_LAG),
    ),
    _row(
        "keys are ignored, a create's answer is lost and listings lag",
        _create_meets("drop_after_commit", sandboxes=2, idempotency_enabled=False, **_LONG_LAG),
    ),
    _row(
        "keys are ignored and a create is done long after its client left",
        _create_meets(
            {"action": "drop_while_in_progress", "seconds": HELD_SECONDS},
            sandboxes=2,
            idempotency_enabled=False,
        ),
    ),
    _row("the template does not exist", _create_is_refused_for_good),
]
