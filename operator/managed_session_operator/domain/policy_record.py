"""Says what the status records of a session's class and policy, and whether it is due. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from managed_session_api.conditions import ConditionType, Reason
from managed_session_api.resource import ManagedSession, PolicyField, SandboxState, SandboxStatus
from managed_session_api.session_class import ManagedSessionClass

from managed_session_operator.domain.conditions import (
    MAX_MESSAGE,
    ConditionUpdate,
    policy_applied,
    policy_not_applied,
)
from managed_session_operator.domain.policy_layers import (
    CREATION_FIELDS,
    LATER_CREATION_FIELDS,
    SETTINGS,
    Policy,
    fingerprint_of,
)


def is_classed(resource: ManagedSession) -> bool:
    """Return whether the status records anything that only a class brings."""
    status = resource.status
    return (
        status.session_class is not None
        or status.condition(ConditionType.POLICY_APPLIED) is not None
        or (status.effective is not None and status.effective.origins is not None)
        or status.sandbox.created_with is not None
    )


def class_fields(resource: ManagedSession, serving: ManagedSessionClass | None) -> dict[str, Any]:
    """Return `status.class` for the class that serves the session from now on; empty if nothing changes."""
    if serving is None:
        return {"class": None} if resource.status.session_class is not None else {}
    known = serving.metadata
    return {"class": {"name": known.name, "uid": known.uid, "generation": known.generation}}


def effective_fields(
    resource: ManagedSession,
    policy: Policy,
    created: Mapping[str, str] | None = None,
    without_class: Policy | None = None,
) -> dict[str, Any]:
    """Return `status.effective`, which replaces what is recorded there.

    A field whose value stays the same keeps the recorded origin: it has come from that version of the class.
    A field of which the sandbox has an older value keeps that value.

    Args:
        resource: the resource.
        policy: the policy that its layers have now.
        created: fingerprints of the sandbox's values, if others than those recorded are written.
        without_class: the policy without a class, which a sandbox from before the class has.
    """
    recorded, sandbox = resource.status.effective, resource.status.sandbox
    full = policy.classed or (sandbox.id is not None and sandbox.created_with is not None)
    wanted = policy.recorded(full=full)
    if full:
        _keep_older(resource, policy, wanted, created, without_class)
    if recorded is None:
        return {"effective": wanted}
    current = recorded.to_json()
    if "origins" in wanted:
        wanted["origins"] = {
            field: _same_source(field, origin, wanted, current) for field, origin in wanted["origins"].items()
        }
    return {"effective": _replacing(current, wanted)}


def _keep_older(
    resource: ManagedSession,
    policy: Policy,
    wanted: dict[str, Any],
    created: Mapping[str, str] | None,
    without_class: Policy | None,
) -> None:
    """Replace the values in `wanted` of which the sandbox has older ones, as far as these are known."""
    sandbox, recorded = resource.status.sandbox, resource.status.effective
    known = sandbox.created_with if created is None else created
    if not (_may_exist(sandbox) and known):
        return
    earlier = [recorded.to_json()] if recorded is not None and recorded.origins is not None else []
    earlier += [without_class.values.to_json()] if without_class is not None else []
    for field, fingerprint in policy.fingerprints().items():
        if _fingerprint(known, field) == fingerprint:
            continue
        # Rules that are on their way to the sandbox are not in force yet.
        on_its_way = field == PolicyField.NETWORK and field not in known
        for values in earlier:
            if on_its_way or fingerprint_of(values.get(field)) == known.get(field):
                wanted[field] = values.get(field)
                wanted["origins"][field] = values["origins"].get(field, SETTINGS)
                break
        if wanted.get(field) is None:
            wanted.pop(field, None)


def _same_source(field: str, origin: str, wanted: dict[str, Any], current: dict[str, Any]) -> str:
    before = (current.get("origins") or {}).get(field)
    same_value = current.get(field) == wanted.get(field)
    return before if before and same_value and _sources(before) == _sources(origin) else origin


def _sources(origin: str) -> list[str]:
    """Return the layers of an origin without the versions of classes."""
    return [each.partition("@")[0] for each in origin.split("+")]


def _replacing(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a merge patch that turns `current` into `wanted`."""
    patch: dict[str, Any] = dict.fromkeys(current.keys() - wanted.keys())
    for key, value in wanted.items():
        before = current.get(key)
        patch[key] = (
            _replacing(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
        )
    return patch


def created_with(resource: ManagedSession, policy: Policy, without_class: Policy) -> dict[str, Any]:
    """Return the part of `status.sandbox` that says with which values the sandbox is created.

    Empty if nothing changes, or if a request with the recorded values may have been sent. A sandbox that was
    created before the session had a class has the values that apply without one. Its session's own network
    rules may have changed since, so rules that are set are sent.
    """
    sandbox = resource.status.sandbox
    if sandbox.id is None:
        if _may_exist(sandbox):
            return {}
        if policy.classed:
            return {"createdWith": policy.fingerprints()}
        return {"createdWith": None} if sandbox.created_with is not None else {}
    if policy.classed and sandbox.created_with is None:
        known = without_class.fingerprints()
        if (policy.values.origins or {}).get(PolicyField.NETWORK) != SETTINGS:
            del known[PolicyField.NETWORK]
        return {"createdWith": known}
    return {}


def _may_exist(sandbox: SandboxStatus) -> bool:
    """Return whether the session's own sandbox may exist: a request with the recorded values may be sent."""
    return sandbox.id is not None or (sandbox.state is SandboxState.CREATING and sandbox.shared_by is None)


def older_fields(
    resource: ManagedSession, policy: Policy, created: Mapping[str, str] | None = None
) -> list[PolicyField]:
    """Return the fields of which the session's sandbox has older values than its policy says.

    `created` has the sandbox's values if they are not recorded yet.
    """
    sandbox = resource.status.sandbox
    known = sandbox.created_with if created is None else created
    if sandbox.id is None or known is None:
        return []
    wanted = policy.fingerprints()
    return [each for each in CREATION_FIELDS if _fingerprint(known, each) != wanted[each]]


def _fingerprint(known: Mapping[str, str], field: str) -> str | None:
    """Return the fingerprint of a sandbox's value. Sandboxes of earlier versions lack the later fields."""
    if known and field in LATER_CREATION_FIELDS:
        return known.get(field, fingerprint_of(LATER_CREATION_FIELDS[PolicyField(field)]))
    return known.get(field)


def network_due(resource: ManagedSession, policy: Policy) -> bool:
    """Return whether the sandbox has other network rules than the policy says."""
    sandbox = resource.status.sandbox
    if sandbox.id is None or sandbox.created_with is None:
        return False
    return sandbox.created_with.get(PolicyField.NETWORK) != policy.fingerprints()[PolicyField.NETWORK]


def policy_condition(
    resource: ManagedSession, policy: Policy, created: Mapping[str, str] | None = None
) -> ConditionUpdate:
    """Return the PolicyApplied condition, or its removal if the session's class applies in full."""
    sentences = list[str]()
    reason = Reason.CLASS_CHANGED
    if policy.refused:
        reason = Reason.LOCKED_FIELD
        of_what = "belong to its shared sandbox or are locked" if policy.shared else "its class locks"
        sentences.append(
            f"The session sets fields that {of_what}: {', '.join(policy.refused)}. The class's values "
            "are used."
        )
    if older := older_fields(resource, policy, created):
        sentences.append(
            f"The sandbox still has older values of {', '.join(older)}. The next one gets the new."
        )
    return policy_not_applied(reason, " ".join(sentences)) if sentences else policy_applied()


def record_due(resource: ManagedSession, policy: Policy) -> bool:
    """Return whether the status says something else about the session's policy than what is in force."""
    if not is_classed(resource):
        return False
    update, old = policy_condition(resource, policy), resource.status.condition(ConditionType.POLICY_APPLIED)
    if update.removed:
        stale = old is not None
    else:
        said = (update.reason, update.message[:MAX_MESSAGE])
        stale = old is None or (old.reason, old.message) != said
    if stale or resource.status.effective is None:
        return stale
    wanted = effective_fields(resource, policy)["effective"]
    return _changes(resource.status.effective.to_json(), wanted)


def _changes(current: dict[str, Any], patch: dict[str, Any]) -> bool:
    """Return whether merging the patch would change anything."""
    for key, value in patch.items():
        before = current.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if _changes(before, value):
                return True
        elif value != before:
            return True
    return False
