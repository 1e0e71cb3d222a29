"""Faults of our own processes and of Kubernetes: kills, freezes, refusals, partitions, a person's hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from managed_session_api import names

from ..faults.api_server_proxy import ApiCall, Rule
from ..faults.arrangements import PODS
from .fault import Fault
from .plan import Blow
from .world import World

_OPERATORS = ("operator-1", "operator-2")
_GONE_SECONDS = 30.0


async def _pod_killed(world: World, blow: Blow, choice: tuple[str, ...], *, kill: bool = True) -> None:
    name = blow.random.choice(choice)
    async with world.taken(name) as pod:
        if pod is None:
            return
        await pod.process.stop(kill=kill)
        world.trace.add("chaos", blow.kind, detail=f"{name}, {blow.hold_seconds:.1f} s")
        try:
            await asyncio.sleep(blow.hold_seconds)
        finally:
            await pod.start()
        await asyncio.sleep(blow.hold_seconds)


async def _operator_killed(world: World, blow: Blow) -> None:
    await _pod_killed(world, blow, _OPERATORS)


async def _operator_restarted(world: World, blow: Blow) -> None:
    await _pod_killed(world, blow, _OPERATORS, kill=False)


async def _webhook_killed(world: World, blow: Blow) -> None:
    await _pod_killed(world, blow, ("webhook",))


async def _pod_frozen(world: World, blow: Blow) -> None:
    name = blow.random.choice((*_OPERATORS, *_OPERATORS, "webhook"))
    async with world.taken(name) as pod:
        if pod is None:
            return
        # Longer than the Lease as often as not.
        seconds = blow.hold_seconds * 2
        pod.process.freeze()
        try:
            world.trace.add("chaos", blow.kind, detail=f"{name}, {seconds:.1f} s")
            await asyncio.sleep(seconds)
        finally:
            pod.process.thaw()


async def _api_server_call_fails(world: World, blow: Blow) -> None:
    chosen = blow.random
    name = chosen.choice(_PROXIED)
    proxy = world.proxies[name]
    what, matches = chosen.choice(_CALLS)
    times, skip = chosen.choice((1, 1, 2, 4)), chosen.choice((0, 0, 1, 3))
    how = chosen.choice(("409", "500", "403", "429", "cut", "cut after", "504 after", "hold", "hold after"))
    rule: Rule
    match how.split():
        case ["hold", *late]:
            rule = proxy.hold(matches, after_commit=bool(late), skip=skip)
        case ["cut", *late]:
            rule = proxy.cut(matches, after_commit=bool(late), times=times, skip=skip)
        case [status, *late]:
            rule = proxy.answer(matches, int(status), after_commit=bool(late), times=times, skip=skip)
    try:
        world.trace.add("chaos", blow.kind, detail=f"{name}: {what}, {how} x{times}")
        await asyncio.sleep(blow.hold_seconds)
    finally:
        proxy.remove(rule)


async def _watches_silent(world: World, blow: Blow) -> None:
    proxy = world.proxies[blow.random.choice(_PROXIED)]
    rule = proxy.silence_watches()
    try:
        world.trace.add("chaos", blow.kind, detail=f"{blow.hold_seconds * 2:.1f} s")
        await asyncio.sleep(blow.hold_seconds * 2)
    finally:
        proxy.remove(rule)


async def _watches_expire(world: World, blow: Blow) -> None:
    name = blow.random.choice(_PROXIED)
    await world.proxies[name].expire_watches()
    world.trace.add("chaos", blow.kind, detail=name)


async def _partition(world: World, blow: Blow) -> None:
    name = blow.random.choice(_PROXIED)
    async with world.proxies[name].partitioned():
        world.trace.add("chaos", blow.kind, detail=f"{name}, {blow.hold_seconds * 2:.1f} s")
        await asyncio.sleep(blow.hold_seconds * 2)


async def _api_server_restarted(world: World, blow: Blow) -> None:
    async with world.plane_lock:
        await world.plane.stop_api_server(kill=blow.random.choice((True, False)))
        try:
            world.trace.add("chaos", blow.kind)
            await asyncio.sleep(min(blow.hold_seconds, 2))
        finally:
            await world.plane.start_api_server()


async def _etcd_stopped(world: World, blow: Blow) -> None:
    async with world.plane_lock:
        await world.plane.stop_etcd(kill=True)
        try:
            world.trace.add("chaos", blow.kind)
            await asyncio.sleep(min(blow.hold_seconds, 3))
        finally:
            await world.plane.start_etcd()


async def _resource_deleted(world: World, blow: Blow) -> None:
    sessions = sorted(world.sessions)
    if not sessions:
        return
    session_id = blow.random.choice(sessions)
    uid = ((await world.resource(session_id)) or {}).get("metadata", {}).get("uid")
    if uid is None:
        return
    world.deletions.note(session_id)
    world.trace.add("chaos", blow.kind, session_id, uid)
    await world.kubectl("delete", names.PLURAL, names.resource_name(session_id), "--wait=false")
    try:
        async with asyncio.timeout(_GONE_SECONDS):
            while True:
                # Whatever is served until it has gone is lost too.
                world.deletions.note(session_id)
                left = await world.resource(session_id)
                if left is not None and left.get("metadata", {}).get("uid") != uid:
                    break
                await asyncio.sleep(0.5)
    except TimeoutError:
        world.trace.add("chaos", "deletion takes long", session_id, uid)
    world.deletions.note(session_id)


async def _suspended(world: World, blow: Blow) -> None:
    sessions = sorted(world.sessions)
    if not sessions:
        return
    session_id = blow.random.choice(sessions)
    name = names.resource_name(session_id)
    if name in world.suspended or not await world.resource(session_id):
        return
    try:
        await world.suspend(name, wanted=True)
        world.trace.add("chaos", blow.kind, session_id, f"{blow.hold_seconds * 2:.1f} s")
        await asyncio.sleep(blow.hold_seconds * 2)
    finally:
        for _ in range(5):
            # Afterwards the resource may be gone; what is left is done at the end of chaos.
            if await world.suspend(name, wanted=False) or await world.resource(session_id) == {}:
                world.suspended.discard(name)
                break


def _writes(call: ApiCall) -> bool:
    return call.verb in ("create", "update", "patch", "delete")


_PROXIED = PODS[:3]
_CALLS: tuple[tuple[str, Callable[[ApiCall], bool]], ...] = (
    ("a write", _writes),
    ("a status write", lambda call: call.operation == "patch managedsessions/status"),
    ("a write of a resource", lambda call: _writes(call) and call.resource == "managedsessions"),
    ("a call about a Secret", lambda call: call.resource == "secrets"),
    ("a call about the Lease", lambda call: call.resource == "leases"),
    ("a read", lambda call: call.verb in ("get", "list")),
)

PROCESS_FAULTS = (
    Fault("operator killed", 3, _operator_killed),
    Fault("operator restarted", 1, _operator_restarted),
    Fault("webhook killed", 2, _webhook_killed),
    Fault("pod frozen", 2, _pod_frozen),
    Fault("API server call fails", 10, _api_server_call_fails),
    Fault("watches silent", 2, _watches_silent),
    Fault("watches expire", 2, _watches_expire),
    Fault("pod cut off from the API server", 2, _partition),
    Fault("API server restarted", 1, _api_server_restarted),
    Fault("etcd stopped", 1, _etcd_stopped),
    Fault("resource deleted", 1, _resource_deleted),
    Fault("session suspended", 2, _suspended),
)
