"""Records that a sandbox has vanished, and whether the session's files are lost with it."""

from __future__ import annotations

from managed_session_api.conditions import Reason
from managed_session_api.resource import ManagedSession, SandboxState
from managed_session_worker.protocol import ExitReason

from managed_session_operator.domain.conditions import conditions_of, workspace_lost
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.user_wait import NO_WAIT, is_paused
from managed_session_operator.steps.call_deaths import count_deaths, one_more_death
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.snapshot import NEVER_PAUSED

_REMEMBERED = 8
"""Maximum number of vanished sandboxes whose IDs a resource keeps: the newest. The CRD has the same limit."""


async def record_vanished(context: Context, resource: ManagedSession) -> float | None:
    """Ask E2B about a sandbox that a list lacked, because lists may lag, and record it if it has vanished."""
    sandbox_id = resource.status.sandbox.id
    cache = context.cache(resource.metadata.name)
    cache.gone = False
    cache.settle(context.listings.findings)
    if sandbox_id is not None and await context.sandboxes.info(sandbox_id) is None:
        await record_loss(context, resource)
    return None


def _may_hold_files(resource: ManagedSession) -> bool:
    """Return whether a worker has served the session, or may have before its heartbeat was recorded."""
    status = resource.status
    return status.turns > 0 or status.last_active_time is not None or status.work.attempts > 0


async def record_loss(context: Context, resource: ManagedSession) -> None:
    """Record that E2B no longer knows the sandbox, and what that means for the session's files.

    The sandbox's ID is kept, because E2B may find it again. An API key of another team, for example, shows
    none of our sandboxes.
    """
    name, sandbox_id = resource.metadata.name, resource.status.sandbox.id
    await context.runs.forget(name)
    context.cache(name).disconnect()
    owner_name = resource.status.sandbox.shared_by
    if owner_name is not None and sandbox_id is not None:
        await context.sharing.lose(owner_name, sandbox_id)
    active, worked = claim_active(resource), resource.status.work.first_heartbeat_at is not None
    if not active:
        context.capacity.release(name)
    conditions = conditions_of(
        Reason.SANDBOX_VANISHED, f"Sandbox {sandbox_id} no longer exists.", SandboxState.LOST
    )
    remembered = [each for each in resource.status.sandbox.vanished if each != sandbox_id]
    if _may_hold_files(resource) and sandbox_id is not None:
        conditions.append(workspace_lost(f"Sandbox {sandbox_id} vanished with the files of earlier turns."))
        remembered = [*remembered, sandbox_id][-_REMEMBERED:]
    finished = {"finishedAt": context.now(), "exitReason": ExitReason.SANDBOX_VANISHED, **NO_WAIT}
    # A session that waits for its user in a paused sandbox goes on waiting: a new sandbox serves the answer.
    worked = worked and not is_paused(resource)
    deaths = await one_more_death(context, resource, "its sandbox vanished") if active and worked else {}
    update = count_deaths(context, resource, deaths)
    resource = await context.records.write_status(
        resource,
        conditions=[*conditions, *update.conditions],
        sandbox={
            "id": None,
            "state": str(SandboxState.LOST),
            "startedAt": None,
            **NEVER_PAUSED,
            "vanished": remembered,
        },
        work=finished if active and worked else {},
        recovery={"suspectedAt": context.now()} if active and worked else {},
        **update.fields,
    )
    context.event(resource, Reason.SANDBOX_VANISHED, f"Sandbox {sandbox_id} no longer exists.", warning=True)
    update.report(context, resource)
