"""Faults of our processes and of Kubernetes: kills, freezes, refusals, partitions, manual changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from managed_session_api import names

from ..support.api_server_proxy import ApiCall, Rule
from ..support.arrangements import PODS
from .fault import Fault
from .plan import PlannedFault
from .shared_state import SharedState

_OPERATORS = ("operator-1", "operator-2")
_GONE_SECONDS = 30.0


async def _pod_killed(
    shared: SharedState, planned: PlannedFault, choice: tuple[str, ...], *, kill: bool = True
) -> None:
    name = planned.random.choice(choice)
    async with shared.reserved(name) as pod:
        if pod is None:
            return
        await pod.process.stop(kill=kill)
        shared.trace.add("chaos", planned.kind, detail=f"{name}, {planned.hold_seconds:.1f} s")
        try:
            await shared.hold(planned.hold_seconds)
        finally:
            await pod.start()
        await shared.hold(planned.hold_seconds)


async def _operator_killed(shared: SharedState, planned: PlannedFault) -> None:
    await _pod_killed(shared, planned, _OPERATORS)


async def _operator_restarted(shared: SharedState, planned: PlannedFault) -> None:
    await _pod_killed(shared, planned, _OPERATORS, kill=False)


async def _webhook_killed(shared: SharedState, planned: PlannedFault) -> None:
    await _pod_killed(shared, planned, ("webhook",))


async def _pod_frozen(shared: SharedState, planned: PlannedFault) -> None:
    name = planned.random.choice((*_OPERATORS, *_OPERATORS, "webhook"))
    async with shared.reserved(name) as pod:
        if pod is None:
            return
        # Long enough for the Lease to lapse sometimes.
        seconds = planned.hold_seconds * 2
        pod.process.freeze()
        try:
            shared.trace.add("chaos", planned.kind, detail=f"{name}, {seconds:.1f} s")
            await shared.hold(seconds)
        finally:
            pod.process.thaw()


async def _api_server_call_fails(shared: SharedState, planned: PlannedFault) -> None:
    chosen = planned.random
    name = chosen.choice(_PROXIED)
    proxy = shared.proxies[name]
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
        shared.trace.add("chaos", planned.kind, detail=f"{name}: {what}, {how} x{times}")
        await shared.hold(planned.hold_seconds)
    finally:
        proxy.remove(rule)


async def _watches_silent(shared: SharedState, planned: PlannedFault) -> None:
    proxy = shared.proxies[planned.random.choice(_PROXIED)]
    rule = proxy.silence_watches()
    try:
        shared.trace.add("chaos", planned.kind, detail=f"{planned.hold_seconds * 2:.1f} s")
        await shared.hold(planned.hold_seconds * 2)
    finally:
        proxy.remove(rule)


async def _watches_expire(shared: SharedState, planned: PlannedFault) -> None:
    name = planned.random.choice(_PROXIED)
    await shared.proxies[name].expire_watches()
    shared.trace.add("chaos", planned.kind, detail=name)


async def _partition(shared: SharedState, planned: PlannedFault) -> None:
    name = planned.random.choice(_PROXIED)
    async with shared.proxies[name].partitioned():
        shared.trace.add("chaos", planned.kind, detail=f"{name}, {planned.hold_seconds * 2:.1f} s")
        await shared.hold(planned.hold_seconds * 2)


async def _api_server_restarted(shared: SharedState, planned: PlannedFault) -> None:
    async with shared.control_plane_lock:
        await shared.control_plane.stop_api_server(kill=planned.random.choice((True, False)))
        try:
            shared.trace.add("chaos", planned.kind)
            await shared.hold(min(planned.hold_seconds, 2))
        finally:
            await shared.control_plane.start_api_server()


async def _etcd_stopped(shared: SharedState, planned: PlannedFault) -> None:
    async with shared.control_plane_lock:
        await shared.control_plane.stop_etcd(kill=True)
        try:
            shared.trace.add("chaos", planned.kind)
            await shared.hold(min(planned.hold_seconds, 3))
        finally:
            await shared.control_plane.start_etcd()


async def _resource_deleted(shared: SharedState, planned: PlannedFault) -> None:
    sessions = sorted(shared.sessions)
    if not sessions:
        return
    session_id = planned.random.choice(sessions)
    uid = ((await shared.resource(session_id)) or {}).get("metadata", {}).get("uid")
    if uid is None:
        return
    shared.deletions.note(session_id)
    shared.trace.add("chaos", planned.kind, session_id, uid)
    await shared.kubectl("delete", names.PLURAL, names.resource_name(session_id), "--wait=false")
    try:
        async with asyncio.timeout(_GONE_SECONDS):
            while True:
                # Everything that is served until the resource is gone is lost too.
                shared.deletions.note(session_id)
                left = await shared.resource(session_id)
                if left is not None and left.get("metadata", {}).get("uid") != uid:
                    break
                await asyncio.sleep(0.5)
    except TimeoutError:
        shared.trace.add("chaos", "deletion takes long", session_id, uid)
    shared.deletions.note(session_id)


async def _suspended(shared: SharedState, planned: PlannedFault) -> None:
    sessions = sorted(shared.sessions)
    if not sessions:
        return
    session_id = planned.random.choice(sessions)
    name = names.resource_name(session_id)
    if name in shared.suspended or not await shared.resource(session_id):
        return
    try:
        await shared.suspend(name, wanted=True)
        shared.trace.add("chaos", planned.kind, session_id, f"{planned.hold_seconds * 2:.1f} s")
        await shared.hold(planned.hold_seconds * 2)
    finally:
        for _ in range(5):
            # The resource may be gone by then. `end_faults` repeats what does not succeed here.
            if await shared.suspend(name, wanted=False) or await shared.resource(session_id) == {}:
                shared.suspended.discard(name)
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
