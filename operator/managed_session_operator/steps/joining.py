"""Gives a session the sandbox that it shares with others, which is created for the first of them."""

from __future__ import annotations

from managed_session_api import names
from managed_session_api.conditions import Reason
from managed_session_api.managed_sandbox import ManagedSandbox, ManagedSandboxSpec, SharedScope, SharedState
from managed_session_api.resource import ManagedSession, SandboxState, Scope

from managed_session_operator.domain.conditions import (
    conditions_of,
    phase_of,
    workspace_regained,
)
from managed_session_operator.domain.decide import claim_active
from managed_session_operator.domain.errors import ErrorKind, OperationError
from managed_session_operator.domain.policy import creation_request, idempotency_key
from managed_session_operator.domain.ports import SandboxHandle
from managed_session_operator.domain.session_cache import SessionCache
from managed_session_operator.domain.shared_sandbox import adoptable, shared_metadata
from managed_session_operator.steps.adoption import connect_first
from managed_session_operator.steps.class_policy import next_policy
from managed_session_operator.steps.context import Context
from managed_session_operator.steps.sandbox_connection import log_assigned, reporting_start
from managed_session_operator.steps.shared_sandbox import end, no_agent, welcome
from managed_session_operator.steps.snapshot import NEVER_PAUSED

_SHARED = {Scope.AGENT: SharedScope.AGENT, Scope.ENVIRONMENT: SharedScope.ENVIRONMENT}


async def wanted_spec(context: Context, resource: ManagedSession, scope: Scope) -> ManagedSandboxSpec:
    """Return whose sandbox the session is to share.

    The agent is the one that Anthropic names. Whoever may write the resource cannot choose another one.

    Raises:
        OperationError: the session's agent is not known.
    """
    environment_id = resource.spec.environment_id or context.queue.environment_id
    key = environment_id
    if scope is Scope.AGENT:
        cache = context.cache(resource.metadata.name)
        if cache.session is None:
            cache.session = await context.sessions.session(resource.spec.session_id)
        if cache.session is None:
            cache.end_check_due = True
        if cache.session is None or not cache.session.agent_id:
            raise no_agent(resource.spec.session_id)
        key = cache.session.agent_id
    return ManagedSandboxSpec(
        scope=_SHARED[scope],
        key=key,
        environment_id=environment_id,
        session_class=context.class_name(resource) or None,
    )


def name_of(context: Context, spec: ManagedSandboxSpec) -> str:
    """Return the name of the ManagedSandbox."""
    return names.shared_sandbox_name(
        context.installation_id, spec.environment_id, spec.scope, spec.key, spec.session_class or ""
    )


async def is_under_way(context: Context, resource: ManagedSession, shared: ManagedSandboxSpec | None) -> bool:
    """Return whether no further sandbox is created now: there is one to join, or its create is open."""
    if shared is None:
        key = idempotency_key(resource.metadata.uid, resource.status.sandbox.attempt)
        return context.sandboxes.creating(key)
    owner = await context.sharing.find(name_of(context, shared))
    if owner is None:
        return False
    key = idempotency_key(owner.metadata.uid, owner.status.attempt)
    return owner.status.id is not None or context.sandboxes.creating(key)


async def join(
    context: Context, resource: ManagedSession, cache: SessionCache, spec: ManagedSandboxSpec
) -> None:
    """Record which sandbox the session shares, and that it has it. If there is none, create it.

    The session refers to the ManagedSandbox before anything is created, so that nobody removes it as unused.
    A sandbox that exists already is connected by the next step, as after a pause.
    """
    name = name_of(context, spec)
    referring = await _refer(context, resource, name, spec)
    if referring is None:
        return
    async with context.sharing.lock(name):
        owner, made = await _ensured(context, name, spec)
        if owner.status.id is not None:
            await _record(context, referring, owner, SandboxState.PAUSED)
            return
        created = await _create(context, referring, owner, made=made)
        if created is None:
            return
        owner, sandbox = created
        handle = await welcome(context, referring, owner, sandbox)
        timeout = context.policy(referring).timeout_seconds
        await _record(context, referring, owner, SandboxState.RUNNING)
        cache.connect(handle, timeout, context.now())
    cache.settle(context.listings.findings)
    message = f"Created sandbox {sandbox.sandbox_id} from {owner.status.template_id}, which sessions share."
    context.event(referring, Reason.SANDBOX_CREATED, message)


async def _refer(
    context: Context, resource: ManagedSession, name: str, spec: ManagedSandboxSpec
) -> ManagedSession | None:
    """Record the ManagedSandbox in the session; None if a class has changed since the step was chosen.

    A claim may have been recorded under another class than the one that its new sandbox is to have. Then that
    class is recorded first, and the next step chooses the ManagedSandbox again.
    """
    sandbox = resource.status.sandbox
    if sandbox.state is SandboxState.CREATING and sandbox.shared_by == name:
        return resource
    following = next_policy(context, resource)
    if not (claim_active(resource) or following.decided):
        return None
    scope, class_name = following.policy.values.scope, context.next_class_name(resource)
    if (_SHARED.get(scope or Scope.SESSION), class_name) != (spec.scope, spec.session_class or ""):
        await context.records.write_status(
            resource, conditions=following.conditions, **following.fields, sandbox=following.sandbox
        )
        return None
    return await context.records.write_status(
        resource,
        phase=phase_of(Reason.PROVISIONING),
        conditions=[
            *conditions_of(Reason.PROVISIONING, "", SandboxState.CREATING),
            *following.conditions,
        ],
        **following.fields,
        sandbox={
            "state": str(SandboxState.CREATING),
            **following.sandbox,
            "sharedBy": name,
            "fromSnapshot": None,
            "unclean": None,
        },
    )


async def _ensured(context: Context, name: str, spec: ManagedSandboxSpec) -> tuple[ManagedSandbox, bool]:
    """Return the ManagedSandbox, and whether it was made just now. A deleted one is ended first."""
    owner = await context.sharing.find(name)
    if owner is not None and owner.metadata.deletion_timestamp is not None:
        await end(context, owner)
        owner = await context.sharing.find(name)
        if owner is not None:
            raise OperationError(
                ErrorKind.TRANSIENT,
                Reason.KUBERNETES_CALL_FAILED,
                f"The ManagedSandbox {name} is being deleted, and another finalizer holds it.",
            )
    if owner is not None:
        return owner, False
    return ManagedSandbox.model_validate(await context.sharing.store.create(name, spec)), True


async def _create(
    context: Context, resource: ManagedSession, owner: ManagedSandbox, *, made: bool
) -> tuple[ManagedSandbox, SandboxHandle] | None:
    """Create the sandbox, or find the one of an earlier request. None if the attempt has come to nothing."""
    policy = context.full_policy(resource)
    fingerprints = policy.fingerprints() if policy.classed else None
    first = owner.status.state is not SharedState.CREATING
    if first:
        owner = await context.sharing.write(
            owner, state=SharedState.CREATING, attempt=owner.status.attempt + 1, createdWith=fingerprints
        )
    key = idempotency_key(owner.metadata.uid, owner.status.attempt)
    joins = context.sandboxes.creating(key)
    if not joins and not (first and made) and (adopted := await _adopt(context, resource, owner)):
        return adopted
    if not joins and not first and owner.status.created_with != fingerprints:
        # The class has changed, and E2B must not get another request with the same key.
        await context.sharing.write(owner, state=None)
        return None
    request = creation_request(
        policy,
        shared_metadata(owner, context.installation_id),
        owner.status.attempt,
        context.queue.base_url,
    )
    try:
        async with reporting_start(context, resource):
            sandbox = await context.sandboxes.create(request, key)
    except OperationError as error:
        if error.ends_attempt(repeated=not first):
            adopted = await _adopt(context, resource, owner) if error.status in (409, 422) else None
            if adopted is not None:
                return adopted
            await context.sharing.write(owner, state=None)
        raise
    if not first and await context.sandboxes.info(sandbox.sandbox_id) is None:
        # E2B repeated its answer to the key, but that sandbox has been killed since.
        await context.sharing.write(owner, state=None)
        return None
    return await _own(context, owner, sandbox, owner.status.attempt, policy.values.template), sandbox


async def _adopt(
    context: Context, resource: ManagedSession, owner: ManagedSandbox
) -> tuple[ManagedSandbox, SandboxHandle] | None:
    """Use a sandbox that the search by metadata finds."""
    listed = await context.sandboxes.list(shared_metadata(owner, context.installation_id))
    found = await connect_first(context, resource, adoptable(owner, listed), owner.status.vanished)
    if found is None:
        return None
    chosen, sandbox = found
    return await _own(context, owner, sandbox, chosen.attempt, context.policy(resource).template), sandbox


async def _own(
    context: Context, owner: ManagedSandbox, sandbox: SandboxHandle, attempt: int, template: str
) -> ManagedSandbox:
    """Record the sandbox's ID. From here on the sandbox belongs to the ManagedSandbox."""
    created = owner.status.created_with
    # With which values a sandbox of another attempt was created is not known any more.
    unknown = created is not None and attempt != owner.status.attempt
    return await context.sharing.write(
        owner,
        id=sandbox.sandbox_id,
        state=SharedState.RUNNING,
        attempt=max(attempt, owner.status.attempt),
        templateID=template,
        startedAt=context.now(),
        vanished=[each for each in owner.status.vanished if each != sandbox.sandbox_id],
        **({"createdWith": dict.fromkeys(created or {})} if unknown else {}),
    )


async def _record(
    context: Context, resource: ManagedSession, owner: ManagedSandbox, state: SandboxState
) -> None:
    """Record in the session that it has the shared sandbox."""
    known, before = owner.status, resource.status.sandbox
    conditions = conditions_of(Reason.PROVISIONING, "", state)
    if known.id in before.vanished:
        conditions.append(workspace_regained(f"Sandbox {known.id}, which had vanished, has reappeared."))
    created = {**dict.fromkeys(before.created_with or {}), **(known.created_with or {})}
    has_class = before.created_with is not None or context.full_policy(resource).classed
    await context.records.write_status(
        resource,
        conditions=conditions,
        sandbox={
            "id": known.id,
            "state": str(state),
            "templateID": known.template_id,
            "startedAt": known.started_at,
            **NEVER_PAUSED,
            "vanished": [each for each in before.vanished if each != known.id],
            **({"createdWith": created} if has_class else {}),
        },
    )
    log_assigned(resource, known.id, "shared")
