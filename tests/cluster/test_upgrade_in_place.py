"""An installation of the version before is upgraded, and taken back, while its sessions run.

The version before is real: its manifests, its worker template, its webhook and its operator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import httpx
import pytest
from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_devkit.system.manifests import install
from managed_session_devkit.system.pods import OPERATOR
from managed_session_devkit.system.source_tree import SourceTree

from ..rights import expect_refusals
from ..support.classes import (
    DENIED,
    class_of,
    denied,
    effective,
    make_class,
    only_sandbox,
    policy_says,
)
from ..support.held import HOLD, holding, let_all_go
from ..support.leaders import leader
from ..support.sessions import (
    QUICK,
    TOTALS_OF_TROUBLE,
    becomes,
    begin,
    paused,
    resource,
    resyncs_pass,
    sandboxes_of,
)
from ..support.systems import StartSystem
from ..support.version_before import ROOT, version_before
from ..support.waiting import eventually

TEMPLATE_BEFORE = "managed-session-worker:before"
TEMPLATE = "managed-session-worker:today"
SETTINGS = {**QUICK, "max_active_sandboxes": "1"}
FILE = "/mnt/session/kept"
FOLLOWING = ("supervisorctl.py", "attach.py")
"""Scripts with which operators follow a worker: today's, and the one of the version before."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    """The version before."""
    return version_before(tmp_path_factory.mktemp("version-before"))


@pytest.fixture
async def control_plane() -> AsyncIterator[ControlPlane]:
    """One of its own, on which other versions may be installed."""
    async with ControlPlane() as running:
        yield running


class Sessions:
    """One session idle with a paused sandbox, one in a turn, and one that waits for the only slot."""

    def __init__(self, system: LocalSystem, stack: AsyncExitStack) -> None:
        self._system = system
        self._stack = stack

    async def begin(self) -> None:
        self.idle, self.running, self.waiting = [
            await self._stack.enter_async_context(begin(self._system)) for _ in range(3)
        ]
        await self.idle.say(f"Run: echo kept > {FILE}")
        await becomes(self._system, self.idle.session_id, "Idle", status="True")
        await self.running.send(f"Run: {HOLD}; echo went")
        await eventually("the turn runs", self._held)
        await becomes(self._system, self.running.session_id, "Running", status="True")
        await self.waiting.send("Run: echo served")
        await becomes(self._system, self.waiting.session_id, "AwaitingCapacity")
        self._before = await self._facts()
        assert "managed_session_worker" in str(self._before[self.running.session_id]), (
            "the worker is compared"
        )

    async def are_untouched(self) -> None:
        """Check, some resyncs later, that each session stands where it stood before the pods changed."""
        await resyncs_pass(self._system, 2)
        assert await self._facts() == self._before
        await becomes(self._system, self.running.session_id, "Running", status="True")
        await becomes(self._system, self.waiting.session_id, "AwaitingCapacity")

    async def go_on(self) -> None:
        """Finish the turn, let the waiting session have its own, and wake the idle one."""
        await let_all_go(self._system)
        assert "went" in await self.running.answer()
        assert "served" in await self.waiting.answer()
        await self.settled(self.running, self.waiting)
        assert await self.idle.say(f"Run: cat {FILE}") == "kept"
        await self.settled(self.idle)
        assert [await self._starts(each) for each in (self.idle, self.running, self.waiting)] == [2, 1, 1]
        assert {each.id for each in await self._system.e2b_admin.sandboxes()} >= self._sandboxes()
        assert len(await self._system.e2b_admin.sandboxes()) == 3, "no sandbox more, and none killed"
        totals = (await self._system.anthropic_admin.ledger(calls=False)).totals
        assert totals["turns_answered"] == totals["messages"] == 4
        assert not {name: totals[name] for name in TOTALS_OF_TROUBLE if totals[name]}

    async def have_no_class(self) -> None:
        """Check that nothing was written about classes."""
        for each in (self.idle, self.running, self.waiting):
            status = (await resource(self._system, each.session_id))["status"]
            assert not {"class", "activeToday"} & status.keys()
            assert "origins" not in status.get("effective", {})
            assert "createdWith" not in status.get("sandbox", {})
            assert "PolicyApplied" not in {known["type"] for known in status["conditions"]}

    async def settled(self, *conversations: Conversation) -> None:
        """Wait until these sessions are idle and their sandboxes paused."""
        for each in conversations:
            await becomes(self._system, each.session_id, "Idle", status="True")
            await eventually("the sandbox is paused", partial(paused, self._system, each.session_id))

    async def _held(self) -> bool:
        return await holding(self._system) == 1

    async def _facts(self) -> dict[str, Any]:
        """What must not change: sandboxes, every process in them, claims, and how often each was resumed."""
        found: dict[str, Any] = {}
        for each in (self.idle, self.running, self.waiting):
            work = (await resource(self._system, each.session_id))["status"].get("work", {})
            found[each.session_id] = (
                work.get("claim"),
                [_running_parts(sandbox) for sandbox in await sandboxes_of(self._system, each.session_id)],
            )
        return found

    async def _starts(self, conversation: Conversation) -> int:
        """How many workers the session's one sandbox has had."""
        sandbox = await only_sandbox(self._system, conversation.session_id)
        log = sandbox.path("/opt/anthropic-managed-agents/worker.log").read_text()
        return log.count("worker starts")

    def _sandboxes(self) -> set[str]:
        return {sandbox[0] for _, sandboxes in self._before.values() for sandbox in sandboxes}


def _running_parts(sandbox: SimulatedSandbox) -> tuple[Any, ...]:
    """What of the sandbox must not change; the commands by which an operator follows a worker are its own."""
    processes = {
        each.host_pid: each.command
        for each in sandbox.processes
        if not any(script in each.command for script in FOLLOWING)
    }
    return sandbox.id, sandbox.state, sandbox.resumes, sandbox.template_id, processes


async def change_pods(system: LocalSystem, version: SourceTree | None, template: str) -> None:
    """End webhook and operator, and start those of another version."""
    for pod in (system.webhook, system.operator):
        await pod.process.stop()
        pod.change_version(version)
    await system.webhook.restart()
    await system.operator.restart(template=template)
    await leader(system)


async def api_server_knows_classes(system: LocalSystem) -> bool:
    found = await system.kubectl("get", "customresourcedefinitions", "--output=name")
    return f"{names.CLASS_PLURAL}.{names.GROUP}" in found


async def operator_knows_classes(system: LocalSystem) -> bool:
    """Whether the code that the operator runs has metrics of classes."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return "managed_sessions_class_" in (await client.get(f"{system.operator.probe_url}/metrics")).text


async def test_sessions_of_the_version_before_run_on_through_an_upgrade(
    start_system: StartSystem, before: SourceTree
) -> None:
    system = await start_system(operator_settings={**SETTINGS, "template": TEMPLATE_BEFORE}, version=before)
    assert not await api_server_knows_classes(system)
    assert not await operator_knows_classes(system)
    async with AsyncExitStack() as stack:
        sessions = Sessions(system, stack)
        await sessions.begin()

        await SourceTree(ROOT).build_template(TEMPLATE, system.clouds.e2b_variables)
        await install(system.control_plane, system.namespace, system.system_namespace)
        await change_pods(system, None, TEMPLATE)
        assert await api_server_knows_classes(system)
        assert await operator_knows_classes(system)

        await sessions.are_untouched()
        await sessions.go_on()
        await sessions.have_no_class()
        await _a_class_takes_effect(system, sessions)


async def _a_class_takes_effect(system: LocalSystem, sessions: Sessions) -> None:
    """A sandbox of the operator before gets the rules of a new class now, and the next one the rest."""
    policy = {"sandbox": {"env": {"TEAM": "gold"}, "network": {"deny": [DENIED]}}}
    await make_class(system, "gold", {"selector": {"agentIDs": [system.agent_id]}, "session": policy})
    session_id = sessions.idle.session_id
    assert await sessions.idle.say(f"Run: cat {FILE}; echo team: $TEAM") == "kept\nteam:"
    await sessions.settled(sessions.idle)
    assert await class_of(system, session_id) == "gold"
    assert await denied(system, session_id) == [DENIED]
    assert "env" in await policy_says(system, session_id, "ClassChanged")
    origins = (await effective(system, session_id))["origins"]
    assert (origins["network"], origins["env"]) == ("class/gold@1", "settings")
    assert await _return_balance(system, session_id) is None, "the worker of the version before told it"

    await system.e2b_admin.vanish((await only_sandbox(system, session_id)).id)
    assert (await sessions.idle.say("Run: echo team: $TEAM")).endswith("team: gold")
    await policy_says(system, session_id, None)
    assert await denied(system, session_id) == [DENIED]
    await sessions.settled(sessions.idle)
    assert await _return_balance(system, session_id) == 0, "today's worker did not report returns"


async def _return_balance(system: LocalSystem, session_id: str) -> int | None:
    """What the session's newest turn says of how soon it comes back."""
    balance: int | None = (await resource(system, session_id))["status"]["work"].get("returnBalance")
    return balance


async def test_the_version_before_goes_on_with_sessions_that_never_had_a_class(
    start_system: StartSystem, before: SourceTree
) -> None:
    system = await start_system(operator_settings={**SETTINGS, "template": TEMPLATE})
    async with AsyncExitStack() as stack:
        sessions = Sessions(system, stack)
        await sessions.begin()
        await sessions.have_no_class()
        assert await operator_knows_classes(system)

        await before.build_template(TEMPLATE_BEFORE, system.clouds.e2b_variables)
        namespaces = (system.namespace, system.system_namespace)
        # The Roles change before the pods do.
        with (
            expect_refusals(system.namespace, OPERATOR, names.CLASS_PLURAL),
            expect_refusals(system.namespace, OPERATOR, names.SHARED_PLURAL),
        ):
            await install(system.control_plane, *namespaces, version=before, keep_crds=True)
            await change_pods(system, before, TEMPLATE_BEFORE)
        assert await api_server_knows_classes(system)
        assert not await operator_knows_classes(system)

        await sessions.are_untouched()
        await sessions.go_on()
