"""Two operators: one leads, the other takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from managed_session_devkit.control_plane import ControlPlane
from managed_session_devkit.system.local_system import LocalSystem
from managed_session_operator.clients.kubernetes.leadership import Leadership
from managed_session_runtime.kubernetes_client import connect

from ..support.held import WAIT, let_go
from ..support.leaders import lease
from ..support.sessions import QUICK, begin, paused, sandboxes_of
from ..support.systems import local_system, unique_name
from ..support.waiting import eventually


@pytest.fixture
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operators=2, operator_settings=QUICK) as running:
        yield running


async def leader_index(system: LocalSystem) -> int:
    """Which of the operators holds the Lease; its identity ends with its process ID and a random part."""
    holder = (await lease(system)).get("holderIdentity") or ""
    processes = [str(pod.process.pid) for pod in system.operators]
    found = [number for number, pid in enumerate(processes) if f"-{pid}-" in holder]
    return found[0] if found else -1


async def has_leader(system: LocalSystem, other_than: int = -1) -> bool:
    return await leader_index(system) not in (-1, other_than)


@pytest.mark.parametrize("how", ["stopped", "killed", "frozen"])
async def test_other_operator_takes_over_from_a_leader_that_was(system: LocalSystem, how: str) -> None:
    await eventually("one operator leads", lambda: has_leader(system))
    leader = await leader_index(system)
    epoch = (await lease(system))["leaseTransitions"]
    async with begin(system) as conversation:
        assert "one" in await conversation.say("Run: echo one | tee kept")
        if how == "frozen":
            system.operators[leader].process.freeze()
        else:
            await system.operators[leader].process.stop(kill=how == "killed")
        await eventually("the other one leads", lambda: has_leader(system, other_than=leader))
        assert (await lease(system))["leaseTransitions"] > epoch, "the epoch grows"
        assert "one" in await conversation.say("Run: cat kept")
        if how == "frozen":
            system.operators[leader].process.thaw()
            assert "one" in await conversation.say("Run: cat kept"), "the thawed one does no harm"
            assert await leader_index(system) != leader
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert len(await sandboxes_of(system, conversation.session_id)) == 1
        report = await system.anthropic_admin.session(conversation.session_id)
        assert report.counts["worker_streams_overlapping"] == 0
        assert report.counts["results_repeated"] == 0


async def one_sandbox_and_one_worker_at_a_time(system: LocalSystem, session_id: str) -> None:
    await eventually("the sandbox is paused", lambda: paused(system, session_id), seconds=60)
    assert len(await sandboxes_of(system, session_id)) == 1
    report = await system.anthropic_admin.session(session_id)
    assert report.counts["worker_streams_overlapping"] == 0
    assert report.counts["results_repeated"] == 0


@pytest.mark.parametrize("when", ["the sandbox runs", "the command runs"])
async def test_turn_goes_on_while_its_leader_is_frozen_and_after_it_thaws(
    system: LocalSystem, when: str
) -> None:
    await eventually("one operator leads", lambda: has_leader(system))
    leader = await leader_index(system)
    async with begin(system) as conversation:
        command = f"touch begun; {WAIT}; echo went"
        turn = asyncio.create_task(conversation.say(f"Run: {command}", timeout_seconds=120))

        async def reached() -> bool:
            running = await sandboxes_of(system, conversation.session_id, "running")
            return bool(running) and (
                when == "the sandbox runs" or running[0].path("/mnt/session/begun").exists()
            )

        await eventually(when, reached)
        system.operators[leader].process.freeze()
        await eventually("the other one leads", lambda: has_leader(system, other_than=leader))
        system.operators[leader].process.thaw()
        assert await leader_index(system) != leader
        (sandbox,) = await sandboxes_of(system, conversation.session_id)
        let_go(sandbox)
        assert "went" in await turn
        await one_sandbox_and_one_worker_at_a_time(system, conversation.session_id)


async def test_lease_removed_by_hand_costs_no_turn(system: LocalSystem) -> None:
    await eventually("one operator leads", lambda: has_leader(system))
    epoch = (await lease(system))["leaseTransitions"]
    async with begin(system) as conversation:
        turn = asyncio.create_task(conversation.say("Run: sleep 2; echo one"))
        await system.control_plane.kubectl(
            f"--namespace={system.system_namespace}", "delete", "lease", "managed-session-operator"
        )

        assert "one" in await turn
        await eventually("one operator leads", lambda: has_leader(system))
        assert (await lease(system))["leaseTransitions"] >= epoch
        await one_sandbox_and_one_worker_at_a_time(system, conversation.session_id)


class Line:
    """A connection to the API server that can be cut: bytes go nowhere then, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        self._whole.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy(reader, back))
            tasks.create_task(self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            await self._whole.wait()
            writer.write(chunk)
        writer.close()


@asynccontextmanager
async def elector(kubeconfig: Path, namespace: str, identity: str) -> AsyncIterator[Leadership]:
    async with await connect(environ={"KUBECONFIG": str(kubeconfig)}) as api_client:
        yield Leadership(api_client, namespace, "cut-off", identity=identity, duration=5, renew_every=0.5)


def noting(said: list[str], who: str) -> Callable[[], Awaitable[None]]:
    async def lead() -> None:
        said.append(f"{who} leads")
        try:
            await asyncio.Event().wait()
        finally:
            said.append(f"{who} has stopped")

    return lead


async def test_leader_that_cannot_reach_the_api_server_stops_before_another_leads(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    namespace, said = unique_name(), list[str]()
    await control_plane.kubectl("create", "namespace", namespace)
    port = int(control_plane.url.rsplit(":", 1)[1])
    line = Line(port)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    behind_the_line = tmp_path / "kubeconfig"
    own = str(server.sockets[0].getsockname()[1])
    behind_the_line.write_text(control_plane.kubeconfig.read_text().replace(str(port), own))

    async def spoke(word: str) -> bool:
        return word in said

    async with (
        elector(behind_the_line, namespace, "first") as first,
        elector(control_plane.kubeconfig, namespace, "second") as second,
    ):
        tasks = [asyncio.create_task(first.run(noting(said, "first")))]
        await eventually("the first leads", lambda: spoke("first leads"))
        tasks.append(asyncio.create_task(second.run(noting(said, "second"))))
        line.cut()
        await eventually("the second leads", lambda: spoke("second leads"))
        assert said == ["first leads", "first has stopped", "second leads"]
        assert not first.leading
        assert second.epoch > first.epoch
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    server.close()
