"""The ports of both clouds for one operator process, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.offer import Offer
from managed_session_operator.domain.sandbox import SandboxNetwork, SandboxRequest, SandboxView
from managed_session_operator.domain.session import SessionView
from managed_session_operator.domain.turn import Awaited, Turn
from managed_session_operator.domain.work_item import WorkItem, WorkList
from pydantic import SecretStr

from .examples import ENVIRONMENT, SESSION
from .in_memory_ports import Link
from .world import NotRunningError, Sandbox

INSTALLATION = "ours"
MEANT_UNDER_A_WORKER = frozenset({"SUSPEND", "ROLL_OVER", "CHECK_TURN", "PAUSE_WAIT"})
"""Steps that pause a sandbox under its worker on purpose."""
STOPPED_NEXT = frozenset({"REJECT_OFFER", "RELEASE_UNUSED"})
"""Steps that acknowledge an item only to stop it."""


@dataclass(frozen=True)
class InMemoryQueue:
    """The work queue, the sessions and the workspace's API key."""

    link: Link

    @property
    def environment_id(self) -> str:
        """The environment."""
        return ENVIRONMENT

    @property
    def environment_key(self) -> SecretStr:
        """Raise, because sandboxes never get the key."""
        raise AssertionError("nothing here may use the environment key")

    @property
    def base_url(self) -> str:
        """Where workers reach Anthropic."""
        return "https://api.anthropic.com"

    @property
    def possible(self) -> bool:
        """Whether there is an API key: yes."""
        return True

    def key_lines(self) -> tuple[SecretStr, ...]:
        """The key never changes."""
        return ()

    async def poll(self, *, block_ms: int, reclaim_ms: int) -> Offer | None:
        """Raise, because the test itself polls."""
        raise NotImplementedError(block_ms, reclaim_ms)

    async def acknowledge(self, work_id: str) -> bool:
        """Acknowledge the item."""
        link = self.link
        to_serve = link.step() not in STOPPED_NEXT
        return await link.effect(
            Reason.ENVIRONMENT_UNREACHABLE,
            lambda: link.world.acknowledge(link.epoch, to_serve=to_serve and work_id == SESSION),
        )

    async def stop(self, work_id: str) -> None:
        """Force-stop the item."""
        assert work_id == SESSION
        await self.link.effect(Reason.ENVIRONMENT_UNREACHABLE, self.link.world.stop)

    async def stop_held(self, work_id: str) -> None:
        """Force-stop the item unless it has stopped."""
        if await self.state(work_id) not in ("queued", "stopped", None):
            await self.stop(work_id)

    async def items(self) -> WorkList:
        """Return the work list."""
        self.link.fence()
        item = self._item()
        return WorkList([item] if item is not None else [], self.link.world.now)

    async def item(self, work_id: str) -> WorkItem | None:
        """Return the item."""
        self.link.fence()
        assert work_id == SESSION
        return self._item()

    async def state(self, work_id: str) -> str | None:
        """Return the item's state."""
        item = await self.item(work_id)
        return item.state if item is not None else None

    def _item(self) -> WorkItem | None:
        world = self.link.world
        if world.item is None:
            return None
        acknowledged = world.queued_at if world.item != "queued" else None
        beat = world.heartbeat_at if world.item == "active" else None
        return WorkItem(SESSION, SESSION, world.item, world.queued_at, acknowledged, beat)

    async def workers_polling(self) -> int | None:
        """Return one: there is no other operator."""
        return 1

    async def session(self, session_id: str) -> SessionView | None:
        """The session."""
        self.link.fence()
        ended = self.link.world.ended
        if ended == "deleted":
            return None
        return SessionView(
            session_id,
            ENVIRONMENT,
            "agent_1",
            ended or "idle",
            archived=False,
            agent_name="coder",
            metadata=dict(self.link.world.metadata),
        )

    async def has_message(self, _: str) -> bool | None:
        """Return whether the session has a message."""
        self.link.fence()
        return None if self.link.world.ended == "deleted" else self.link.world.message_count > 0

    async def turn(self, _: str) -> Turn | None:
        """Return whose turn it is. With an unserved message it is the agent's."""
        self.link.fence()
        world = self.link.world
        if world.ended == "deleted":
            return None
        if world.awaiting and not world.other_thread_works:
            return Turn(Awaited.USER, f"sevt_{world.message_count}")
        return Turn(Awaited.AGENT if world.messages else Awaited.NOBODY, f"sevt_{world.message_count}")

    async def turn_began(self, _: str, *, before: datetime) -> datetime | None:
        """Return when the session's first unserved message came."""
        self.link.fence()
        world = self.link.world
        assert before < world.now
        return world.turn_began if world.messages and world.ended != "deleted" else None

    async def interrupt(self, _: str) -> None:
        """Interrupt the session."""
        await self.link.effect(Reason.ENVIRONMENT_UNREACHABLE, self.link.world.interrupt)

    async def living(self) -> set[str]:
        """Return the sessions that have not ended."""
        return set() if self.link.world.ended else {SESSION}


@dataclass(frozen=True)
class Handle:
    """A handle of a running sandbox."""

    sandbox_id: str


@dataclass(frozen=True)
class InMemorySandboxes:
    """E2B's control plane."""

    link: Link

    def key_lines(self) -> tuple[SecretStr, ...]:
        """The key never changes."""
        return ()

    def creating(self, _: str) -> bool:
        """Return False, because a create is answered at once or never."""
        return False

    async def give_up_create(self, _: str) -> None:
        """Do nothing, because no create is pending."""

    async def create(self, request: SandboxRequest, idempotency_key: str) -> Handle:
        """Create a sandbox, or return that of the same attempt."""
        assert len(idempotency_key) == 64
        attempt = int(request.metadata[names.METADATA_ATTEMPT])
        world, epoch = self.link.world, self.link.epoch
        made = await self.link.effect(
            Reason.SANDBOX_CREATE_FAILED, lambda: world.create(attempt, epoch, request)
        )
        return Handle(made.name)

    async def connect(self, sandbox_id: str, timeout_seconds: int, *, reboot: bool = False) -> Handle:
        """Resume the sandbox."""
        assert timeout_seconds > 0
        assert not reboot
        world, epoch = self.link.world, self.link.epoch

        def act() -> Handle:
            try:
                return Handle(world.connect(sandbox_id, epoch).name)
            except NotRunningError:
                raise OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, "gone") from None

        return await self.link.effect(Reason.SANDBOX_RESUME_FAILED, act)

    async def info(self, sandbox_id: str) -> SandboxView | None:
        """Return the sandbox's state."""
        self.link.fence()
        return self._known(sandbox_id)

    async def pause(self, sandbox_id: str, *, strict: bool = True) -> SandboxView | None:
        """Pause the sandbox."""
        assert strict
        link = self.link
        meant = link.step() in MEANT_UNDER_A_WORKER
        try:
            await link.effect(
                Reason.PAUSE_FAILED, lambda: link.world.pause(sandbox_id, link.epoch, under_worker=meant)
            )
        except OperationError:
            view = await self.info(sandbox_id)
            if view is not None and not view.paused:
                raise
            return view
        return self._known(sandbox_id)

    async def kill(self, sandbox_id: str) -> bool:
        """Kill the sandbox."""
        world = self.link.world
        return await self.link.effect(Reason.SANDBOX_UNREACHABLE, lambda: world.kill(sandbox_id))

    async def extend(self, sandbox_id: str, timeout_seconds: int) -> None:
        """Require a running sandbox. Countdowns do not run here."""
        self.link.fence()
        assert timeout_seconds > 0
        sandbox = self.link.world.get(sandbox_id)
        if sandbox is None or not sandbox.running:
            raise OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, "not running", status=404)

    async def update_network(self, sandbox_id: str, network: SandboxNetwork) -> None:
        """Replace the network rules."""
        world = self.link.world

        def act() -> None:
            sandbox = world.get(sandbox_id)
            if sandbox is None or not sandbox.running:
                raise OperationError(ErrorKind.NOT_FOUND, Reason.SANDBOX_VANISHED, "not running", status=404)
            sandbox.deny = network.deny
            sandbox.headers = {
                (host, name): value.get_secret_value()
                for host, added in network.headers.items()
                for name, value in added.items()
            }
            sandbox.network_updates += 1

        await self.link.effect(Reason.SANDBOX_UNREACHABLE, act)

    async def list(self, metadata: Mapping[str, str]) -> list[SandboxView]:
        """Return E2B's list."""
        return [view async for page in self.pages(metadata) for view in page]

    async def pages(
        self, metadata: Mapping[str, str], *, running_only: bool = False
    ) -> AsyncIterator[Sequence[SandboxView]]:
        """Yield the list as one page."""
        self.link.fence()
        views = [self._view(each) for each in self.link.world.listed()]
        assert all(metadata.items() <= view.metadata.items() for view in views)
        yield [view for view in views if not (running_only and view.paused)]

    def _known(self, sandbox_id: str) -> SandboxView | None:
        sandbox = self.link.world.get(sandbox_id)
        return self._view(sandbox) if sandbox is not None else None

    def _view(self, sandbox: Sandbox) -> SandboxView:
        world = self.link.world
        metadata = {
            names.METADATA_INSTALLATION: INSTALLATION,
            names.METADATA_RESOURCE_UID: world.resource.identity,
            names.METADATA_SESSION: SESSION,
            names.METADATA_ATTEMPT: str(sandbox.attempt),
        }
        end = sandbox.paused_at or world.now
        return SandboxView(
            sandbox.name, sandbox.paused_at is not None, "template", metadata, sandbox.period_began, end
        )
