"""What the status records of a class and its policy, and when something is due."""

from __future__ import annotations

from typing import Any

from managed_session_api.conditions import ConditionStatus, ConditionType, Reason
from managed_session_api.resource import ManagedSession
from managed_session_api.session_class import ManagedSessionClass
from managed_session_operator.domain import policy_record
from managed_session_operator.domain.policy import policy_of, policy_without_class
from managed_session_operator.domain.policy_layers import Policy
from managed_session_operator.domain.status_patch import status_patch

from ...support.merge_patch import merge_patch
from .examples import NOW, PAUSED, body, session, session_class, settings

GOLD: dict[str, Any] = {
    "session": {"sandbox": {"template": "gold:1", "env": {"A": "1"}}, "worker": {"maxIdleSeconds": 30}}
}


def written(resource: ManagedSession, serving: ManagedSessionClass | None) -> dict[str, Any]:
    """Return the status after a claim under this class."""
    without = policy_without_class(resource, settings())
    policy = policy_of(resource, settings(), serving) if serving is not None else without
    sandbox = policy_record.created_with(resource, policy, without)
    created = sandbox.get("createdWith")
    patch = status_patch(
        resource,
        NOW,
        conditions=[policy_record.policy_condition(resource, policy, created)],
        **policy_record.class_fields(resource, serving),
        **policy_record.effective_fields(resource, policy, created, without),
        sandbox=sandbox,
    )
    status: dict[str, Any] = merge_patch(body(status=resource.status.to_json()), {"status": patch})["status"]
    return status


def in_force(resource: ManagedSession, serving: ManagedSessionClass | None) -> Policy:
    return policy_of(resource, settings(), serving)


def served(
    spec: dict[str, Any] | None = None, *, sandbox: bool = True, own: dict[str, Any] | None = None
) -> tuple[ManagedSession, ManagedSessionClass]:
    """Return a session that class gold serves, with a sandbox of it, and the class."""
    gold = session_class(spec=spec or GOLD)
    status = written(session(spec=own), gold)
    if sandbox:
        status["sandbox"] = {**status["sandbox"], **PAUSED}
    return session(status=status, spec=own), gold


def test_a_claim_records_the_class_its_values_and_their_origins() -> None:
    resource, gold = served()
    assert resource.status.session_class is not None
    assert resource.status.session_class.to_json() == {"name": "gold", "uid": "uid-gold", "generation": 7}
    effective = resource.status.effective
    assert effective is not None
    assert effective.origins is not None
    assert (effective.template, effective.origins["template"]) == ("gold:1", "class/gold@7")
    assert effective.origins["logLevel"] == "settings"
    assert not policy_record.record_due(resource, in_force(resource, gold))
    assert not policy_record.network_due(resource, in_force(resource, gold))
    assert resource.status.condition(ConditionType.POLICY_APPLIED) is None


def test_without_a_class_nothing_is_due_and_nothing_more_is_recorded() -> None:
    resource = session(status=written(session(), None))
    assert "class" not in resource.status.to_json()
    assert resource.status.effective is not None
    assert resource.status.effective.origins is None
    assert resource.status.sandbox.created_with is None
    # Even if the settings have changed since.
    changed = policy_of(resource, settings(max_idle_seconds=99))
    assert not policy_record.record_due(resource, changed)


def test_a_change_of_limits_alone_is_not_recorded_in_any_session() -> None:
    resource, _ = served()
    changed = session_class(generation=8, spec={**GOLD, "limits": {"weight": 5}})
    assert not policy_record.record_due(resource, in_force(resource, changed))


def test_a_changed_value_is_recorded_with_the_version_that_it_comes_from() -> None:
    resource, _ = served()
    spec = {"session": {**GOLD["session"], "worker": {"maxIdleSeconds": 31}}}
    changed = in_force(resource, session_class(generation=8, spec=spec))
    assert policy_record.record_due(resource, changed)
    patch = policy_record.effective_fields(resource, changed)["effective"]
    merged = merge_patch({"e": resource.status.to_json()["effective"]}, {"e": patch})["e"]
    assert merged["maxIdleSeconds"] == 31
    assert merged["origins"]["maxIdleSeconds"] == "class/gold@8"
    assert merged["origins"]["template"] == "class/gold@7"


def test_a_sandbox_with_older_values_says_which() -> None:
    resource, _ = served()
    spec = {"session": {"sandbox": {"template": "gold:2", "env": {"A": "2"}}}}
    changed = in_force(resource, session_class(generation=8, spec=spec))
    update = policy_record.policy_condition(resource, changed)
    assert (update.status, update.reason) == (ConditionStatus.FALSE, Reason.CLASS_CHANGED)
    assert "template, env" in update.message
    assert policy_record.record_due(resource, changed)
    # The status keeps the values that the sandbox has, with the version that they come from.
    assert policy_record.effective_fields(resource, changed)["effective"]["template"] == "gold:1"
    assert policy_record.effective_fields(resource, changed)["effective"]["origins"]["env"] == "class/gold@7"


def test_without_a_sandbox_nothing_is_older() -> None:
    resource, _ = served(sandbox=False)
    changed = session_class(generation=8, spec={"session": {"sandbox": {"template": "gold:2"}}})
    assert policy_record.policy_condition(resource, in_force(resource, changed)).removed


def test_changed_network_rules_are_due_in_the_sandbox_and_are_no_older_value() -> None:
    resource, _ = served()
    deny = {"network": {"deny": ["0.0.0.0/0"]}}
    spec = {"session": {**GOLD["session"], "sandbox": {**GOLD["session"]["sandbox"], **deny}}}
    changed = in_force(resource, session_class(generation=8, spec=spec))
    assert policy_record.network_due(resource, changed)
    assert policy_record.policy_condition(resource, changed).removed


def test_a_locked_field_is_named_and_passes_when_it_is_unlocked() -> None:
    spec = {**GOLD, "locked": ["template"]}
    resource, gold = served(spec, own={"sandbox": {"template": "own:1"}})
    condition = resource.status.condition(ConditionType.POLICY_APPLIED)
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "LockedField")
    assert "template" in condition.message
    assert not policy_record.record_due(resource, in_force(resource, gold))
    unlocked = in_force(resource, session_class(generation=8, spec=GOLD))
    assert policy_record.record_due(resource, unlocked)


def test_a_sandbox_from_before_the_class_has_the_values_without_one() -> None:
    earlier = session(status={"sandbox": PAUSED})
    status = written(earlier, session_class(spec=GOLD))
    resource = session(status=status)
    condition = resource.status.condition(ConditionType.POLICY_APPLIED)
    assert condition is not None
    assert condition.reason == "ClassChanged"
    assert "template, env" in condition.message
    effective = resource.status.effective
    assert effective is not None
    assert effective.origins is not None
    assert (effective.template, effective.origins["template"]) == (settings().template, "settings")
    assert (effective.max_idle_seconds, effective.origins["maxIdleSeconds"]) == (30, "class/gold@7")


def test_when_the_last_class_goes_its_sandbox_is_still_known_to_be_older() -> None:
    resource, _ = served()
    after = session(status=written(resource, None))
    assert after.status.session_class is None
    effective = after.status.effective
    assert effective is not None
    assert effective.origins is not None
    assert (effective.template, effective.origins["template"]) == ("gold:1", "class/gold@7")
    assert effective.origins["maxIdleSeconds"] == "settings"
    assert after.status.sandbox.created_with is not None
    condition = after.status.condition(ConditionType.POLICY_APPLIED)
    assert condition is not None
    assert condition.reason == "ClassChanged"
    renewed = session(status={**after.status.to_json(), "sandbox": {}})
    last = session(status=written(renewed, None))
    assert last.status.effective is not None
    assert last.status.effective.origins is None
    assert not policy_record.is_classed(last)
