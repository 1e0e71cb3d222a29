"""What a row works with: a system, its proxies, its sessions and the calls that are held back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.simulators.e2b.client import SimulatedSandbox
from managed_session_devkit.system.local_system import LocalSystem

from ..support.api_server_proxy import ApiServerProxy, Rule
from ..support.sessions import begin, begin_with_store, written_down
from ..support.shared_sandboxes import shared_sandboxes
from ..support.waiting import eventually
from .effects import Effect

HELD_SECONDS = 60
"""How long a simulator keeps a call back: longer than any row."""


class Held:
    """A call that is kept back, by a proxy or by a simulator."""

    def __init__(
        self, effect: Effect, reached: Callable[[], Awaitable[bool]], release: Callable[[bool], None]
    ) -> None:
        self._effect = effect
        self._reached = reached
        self._release = release

    async def reached(self) -> None:
        """Wait until the call has been made."""
        await eventually(f"{self._effect} is held", self._reached)

    def lose(self) -> None:
        """The call, if it had not taken effect, never does: its sender is dead."""
        self._release(False)


class Late:
    """A call that takes effect when the test says so, whatever has become of its sender."""

    def __init__(
        self, effect: Effect, reached: Callable[[], Awaitable[bool]], arrive: Callable[[], Awaitable[None]]
    ) -> None:
        self._effect = effect
        self._reached = reached
        self.arrive = arrive

    async def reached(self) -> None:
        """Wait until the call has been made."""
        await eventually(f"{self._effect} is held", self._reached)


class Scenario:
    """What a row works with.

    Args:
        system: in which it is played.
        proxies: before the API server, by pod name.
        earlier: IDs of the shared sandboxes of earlier rows, which have the system's E2B in common.
    """

    def __init__(
        self,
        system: LocalSystem,
        proxies: Mapping[str, ApiServerProxy],
        earlier: frozenset[str] = frozenset(),
    ) -> None:
        self.system = system
        self.proxies = proxies
        self.sessions: dict[str, Conversation] = {}
        self.sent: Counter[str] = Counter()
        """Messages of the users, by session."""
        self._earlier = earlier
        self._e2b_before: dict[str, Any] = {}
        self._stack = AsyncExitStack()

    @property
    def proxy(self) -> ApiServerProxy:
        """The first operator's."""
        return self.proxies["operator-1"]

    @property
    def webhook_proxy(self) -> ApiServerProxy:
        """The webhook's."""
        return self.proxies["webhook"]

    async def begin(self, agent_id: str | None = None) -> Conversation:
        """A new session, which the verdict looks at in the end."""
        conversation = await self._stack.enter_async_context(begin(self.system, agent_id))
        self.sessions[conversation.session_id] = conversation
        return conversation

    async def begin_with_store(self, store: str) -> Conversation:
        """The same with a memory store."""
        conversation = await self._stack.enter_async_context(begin_with_store(self.system, store))
        self.sessions[conversation.session_id] = conversation
        return conversation

    async def send(self, conversation: Conversation, text: str) -> None:
        """Send a message as the session's user."""
        self.sent[conversation.session_id] += 1
        await conversation.send(text)

    async def say(self, conversation: Conversation, text: str, *, seconds: float = 120) -> str:
        """Send a message and wait for its answer."""
        await self.send(conversation, text)
        return await conversation.answer(timeout_seconds=seconds)

    async def shared(self, *states: str) -> list[SimulatedSandbox]:
        """The sandboxes that sessions of this row share, by default all that ever were."""
        found = await shared_sandboxes(self.system, *states)
        return [each for each in found if each.id not in self._earlier]

    async def sandboxes_for(self, session_id: str) -> list[SimulatedSandbox]:
        """All that the session ever had: its own sandboxes, and those that the row's sessions share."""
        return [
            each
            for each in await self.system.e2b_admin.sandboxes()
            if each.metadata.get(names.METADATA_SESSION) == session_id
            or (names.METADATA_SHARED in each.metadata and each.id not in self._earlier)
        ]

    async def settled(self, conversation: Conversation, *, seconds: float = 60) -> None:
        """Wait until the session's one sandbox is paused, and its resource says so."""

        async def look() -> bool:
            session_id = conversation.session_id
            alive = [each.state for each in await self.sandboxes_for(session_id) if each.state != "killed"]
            return alive == ["paused"] and await written_down(self.system, session_id)

        await eventually("the sandbox is paused and the turn written down", look, seconds=seconds)

    async def hold(self, effect: Effect, *, after_commit: bool, skip: int = 0) -> Held:
        """Keep back the next call of this effect, or (`after_commit`) its answer."""
        match effect.cloud:
            case "kubernetes":
                rule = self.proxy.hold(effect.matches, after_commit=after_commit, skip=skip)
                return Held(effect, lambda: _is_set(rule), lambda forward: rule.release(forward=forward))
            case "e2b":
                action = {"status": 504, "after_commit": after_commit, "seconds": HELD_SECONDS}
                fault = await self.system.e2b_admin.add_fault(effect.name, action, skip=skip)
                return Held(effect, lambda: self._e2b_hit(fault["id"]), _nothing)
            case "anthropic":
                action = {"status": 504, "after_commit": after_commit, "seconds": HELD_SECONDS}
                identity = await self.system.anthropic_admin.add_fault(effect.name, action, skip=skip)
                return Held(effect, lambda: self._anthropic_hit(identity), _nothing)

    async def hold_for_later(self, effect: Effect, pod: str, *, skip: int = 0) -> Late:
        """Keep back the next call of this effect by an operator, until it is told to arrive.

        Only the way to the API server is a pod's own: in the clouds the next call counts, whoever makes it.
        """
        action = {"action": "hang", "seconds": HELD_SECONDS}
        match effect.cloud:
            case "kubernetes":
                rule = self.proxies[pod].hold(effect.matches, skip=skip)
                return Late(effect, lambda: _is_set(rule), lambda: _released(rule))
            case "e2b":
                admin = self.system.e2b_admin
                fault = await admin.add_fault(effect.name, action, skip=skip)
                return Late(effect, lambda: self._e2b_hit(fault["id"]), admin.clear_faults)
            case "anthropic":
                faults = self.system.anthropic_admin
                identity = await faults.add_fault(effect.name, action, skip=skip)
                return Late(effect, lambda: self._anthropic_hit(identity), faults.clear_faults)

    async def e2b_settings(self, **changes: Any) -> None:
        """Change settings of E2B's simulator until all is calm."""
        admin = self.system.e2b_admin
        before = await admin.settings()
        # Latencies are merged by operation: one that was not there is undone by none.
        none = {operation: {"mean_ms": 0} for operation in changes.get("latencies", {})}
        before["latencies"] = {**none, **before["latencies"]}
        self._e2b_before = {**before, **self._e2b_before}
        await admin.change_settings(**changes)

    async def calm(self) -> None:
        """End all faults."""
        await self.system.e2b_admin.change_settings(**self._e2b_before)
        for proxy in self.proxies.values():
            proxy.clear()
        await self.system.e2b_admin.clear_faults()
        await self.system.anthropic_admin.clear_faults()

    async def close(self) -> None:
        """End the conversations."""
        await self._stack.aclose()

    async def _e2b_hit(self, identity: int) -> bool:
        return any(each["hits"] for each in await self.system.e2b_admin.faults() if each["id"] == identity)

    async def _anthropic_hit(self, identity: str) -> bool:
        faults = await self.system.anthropic_admin.faults()
        return any(each["applied"] for each in faults if each["id"] == identity)


async def _released(rule: Rule) -> None:
    rule.release()


async def _is_set(rule: Rule) -> bool:
    return rule.reached.is_set()


def _nothing(*_: Any) -> None:
    """A simulator answers a held call with 504 in the end, whoever has gone meanwhile."""
