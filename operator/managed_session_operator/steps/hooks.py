"""Runs the hooks that come before a pause and before a kill. Neither waits longer than the hook may take.

A process that has just become the leader, or that deletes a session it never served, is not connected to a
sandbox that runs. It connects first, within a limit of time.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from managed_session_api.conditions import Reason
from managed_session_api.resource import EffectiveStatus, HookSpec, HooksSpec, ManagedSession

from managed_session_operator.domain import trust
from managed_session_operator.domain.errors import OperationError, UnderWayError
from managed_session_operator.domain.policy import commands_env
from managed_session_operator.domain.setup_plan import hook_seconds, single_hook_plan
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.shared_sandbox import running_handle

logger = logging.getLogger(__name__)

_BESIDE_SECONDS = 15.0
"""What a hook may take beside its own time, to be sent and to report."""
_CONNECT = "connect"
_CONNECT_SECONDS = 30.0
"""How long a pause or a kill waits for the connection to a sandbox that runs."""


async def before_pause(context: Context, resource: ManagedSession) -> None:
    """Run the hook `beforePause` once in this running period of the sandbox, if it could be prepared in it.

    Raises:
        UnderWayError: it has not ended yet, and may take longer.
    """
    if context.cache(resource.metadata.name).unprepared is not None:
        # No worker has run in this period, and what the command needs may be missing.
        return
    hooks = context.policy(resource).hooks or HooksSpec()
    if hooks.before_pause is not None:
        await reach_running(context, resource)
    await _run(context, resource, "beforePause", hooks.before_pause)


async def before_kill(context: Context, resource: ManagedSession) -> None:
    """Run the hook `beforeKill` once, if the sandbox runs.

    Raises:
        UnderWayError: it has not ended yet, and may take longer.
    """
    hooks = context.policy(resource).hooks or HooksSpec()
    if hooks.before_kill is not None:
        await reach_running(context, resource)
    await _run(context, resource, "beforeKill", hooks.before_kill)


async def reach_running(context: Context, resource: ManagedSession) -> None:
    """Connect to the recorded sandbox if it runs. Tried once; an error is only logged.

    Raises:
        UnderWayError: E2B has not answered yet, and may take longer.
    """
    cache, sandbox_id = context.cache(resource.metadata.name), resource.status.sandbox.id
    if cache.sandbox is not None or sandbox_id is None or _CONNECT in cache.hooks_run:
        return
    now = context.clock.monotonic()
    until = cache.hooks_until.setdefault(_CONNECT, now + _CONNECT_SECONDS)
    timeout = context.policy(resource).timeout_seconds
    try:
        async with context.sharing.turn(resource):
            handle = await running_handle(context, resource)
        if handle is not None:
            cache.connect(handle, timeout, context.now())
    except UnderWayError:
        if now < until:
            raise
    except OperationError as error:
        logger.warning("sandbox not reached", extra={"sandbox": sandbox_id, "cause": error.message})
    cache.hooks_run.add(_CONNECT)


async def _run(context: Context, resource: ManagedSession, name: str, hook: HookSpec | None) -> None:
    cache, policy = context.cache(resource.metadata.name), context.policy(resource)
    if hook is None or cache.sandbox is None or name in cache.hooks_run:
        return
    now = context.clock.monotonic()
    until = cache.hooks_until.setdefault(name, now + hook_seconds(hook) + _BESIDE_SECONDS)
    plan = single_hook_plan(name, hook, await _variables(context, policy), _BESIDE_SECONDS)
    try:
        report = await context.preparations.prepare(cache.sandbox, plan, purpose=name)
        failures = [*report.warnings, *([report.failed] if report.failed is not None else [])]
        why = failures[0].message() if failures else ""
    except UnderWayError:
        if now < until:
            raise
        why = f"hooks.{name}: the sandbox did not report in time how the command ended."
    except OperationError as error:
        why = f"hooks.{name}: {error.message}"
    cache.hooks_run.add(name)
    if why:
        logger.warning("hook failed", extra={"resource": resource.metadata.name, "cause": why})
        context.event(resource, Reason.HOOK_FAILED, why, warning=True)


async def _variables(context: Context, policy: EffectiveStatus) -> dict[str, str]:
    """Return what the hook's command gets. It does without a credential that cannot be read now."""
    login = trust.credential_of(policy.proxy) if policy.proxy is not None else None
    credential = ""
    if login is not None:
        with suppress(OperationError):
            credential = (await context.values.read(login)).get_secret_value()
    return trust.variables(policy, credential) | commands_env(policy)
