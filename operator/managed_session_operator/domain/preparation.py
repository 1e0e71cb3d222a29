"""Says how a sandbox is prepared for its session: the plan, in sections, that is run inside it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from managed_session_api.conditions import Reason
from managed_session_api.resource import EffectiveStatus, ManagedSession
from managed_session_api.times import to_wire

from managed_session_operator.domain import mounts, trust
from managed_session_operator.domain.policy import commands_env
from managed_session_operator.domain.policy_layers import fingerprint_of
from managed_session_operator.domain.setup_plan import (
    hooks_content,
    hooks_seconds,
    setup_content,
    setup_references,
    setup_seconds,
)
from managed_session_operator.domain.values import Reference

__all__ = [
    "Reference",
    "Report",
    "Section",
    "StepFailure",
    "plan_of",
    "preparation_key",
    "reason_of",
    "references_of",
    "sections_of",
    "warning_reason_of",
]

SECTION_SECONDS = 60
"""What a section may take beside the programs whose time its content limits."""


@dataclass(frozen=True)
class Section:
    """One section of the plan.

    Attributes:
        name: its name, as `managed_session_worker.preparation` knows it.
        reason: the reason of the condition if it fails.
        fields: the fields of the policy that it depends on. It is left out if none of them is set.
        references: returns the values that it needs of Secrets and ConfigMaps.
        content: returns what the sandbox gets, with these values.
        seconds: returns how long its programs may take.
        warning_reason: the reason of what it reports without failing.
        takes_missing: whether it can do without a value, if what needs it is done already. It then gets a
            `MissingValue`.
        under_worker: returns its content while a worker serves the session; None if it waits for a later
            preparation.
        undoes: whether it also removes what an earlier policy has asked for. So it is part of the plan, with
            nothing to do, if the policy does not ask for it any more.
    """

    name: str
    reason: Reason
    fields: tuple[str, ...]
    references: Callable[[EffectiveStatus], Iterable[Reference]]
    content: Callable[[EffectiveStatus, Mapping[Reference, str]], dict[str, Any]]
    seconds: Callable[[EffectiveStatus], float]
    warning_reason: Reason = Reason.PREPARATION_FAILED
    takes_missing: bool = False
    under_worker: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda content: content
    undoes: bool = False


def _after_resume(hooks: dict[str, Any]) -> dict[str, Any] | None:
    return {"afterResume": hooks["afterResume"]} if "afterResume" in hooks else None


SECTIONS: tuple[Section, ...] = (
    Section(
        "trust",
        Reason.PREPARATION_FAILED,
        ("trust", "secrets", "proxy"),
        trust.references_of,
        trust.section,
        lambda _: trust.SECONDS,
        undoes=True,
    ),
    Section(
        "mounts",
        Reason.MOUNT_FAILED,
        mounts.FIELDS,
        mounts.references,
        mounts.content,
        mounts.seconds,
        undoes=True,
    ),
    Section(
        "setup",
        Reason.SETUP_FAILED,
        ("setup",),
        setup_references,
        setup_content,
        setup_seconds,
        warning_reason=Reason.SETUP_FAILED,
        takes_missing=True,
        under_worker=lambda _: None,
    ),
    Section(
        "hooks",
        Reason.SETUP_FAILED,
        ("hooks",),
        lambda _: (),
        hooks_content,
        hooks_seconds,
        warning_reason=Reason.HOOK_FAILED,
        under_worker=_after_resume,
    ),
)
"""All sections, in their order."""


@dataclass(frozen=True)
class StepFailure:
    """What went wrong inside the sandbox.

    Attributes:
        section: the section's name.
        step: the field of the policy that failed.
        why: the cause, for people.
        output: the end of the output of the program that failed.
    """

    section: str
    step: str
    why: str
    output: str = ""

    def message(self) -> str:
        """Describe it in one line."""
        output = f" Output: {' | '.join(self.output.split(chr(10)))}" if self.output else ""
        return f"{self.step}: {self.why}.{output}"


@dataclass(frozen=True)
class Report:
    """What a preparation reports: what stopped it, and what did not stop it."""

    failed: StepFailure | None = None
    warnings: tuple[StepFailure, ...] = ()


def sections_of(policy: EffectiveStatus) -> list[Section]:
    """Return the sections that the policy asks for."""
    return [each for each in SECTIONS if any(getattr(policy, field) for field in each.fields)]


def equips(policy: EffectiveStatus) -> bool:
    """Return whether the policy asks for something in the sandbox that is undone when it no longer does."""
    return any(each.undoes for each in sections_of(policy))


def preparation_key(policy: EffectiveStatus, *, equipped: bool = False) -> str | None:
    """Return a fingerprint of what the preparation depends on; None if there is nothing to prepare.

    `equipped` says whether there is something of earlier policies to undo.
    """
    values = policy.to_json()
    wanted = sections_of(policy)
    if not wanted:
        return "undo" if equipped else None
    return fingerprint_of([[each.name, [values.get(field) for field in each.fields]] for each in wanted])


def references_of(policy: EffectiveStatus) -> dict[Reference, bool]:
    """Return the values that the plan needs, and whether it can be made without them."""
    found: dict[Reference, bool] = {}
    for section in sections_of(policy):
        for each in section.references(policy):
            found[each] = found.get(each, True) and section.takes_missing
    return found


def plan_of(
    resource: ManagedSession,
    policy: EffectiveStatus,
    values: Mapping[Reference, str],
    *,
    served: bool = False,
) -> dict[str, Any]:
    """Return the plan, as `managed_session_worker.preparation.run` reads it.

    `served` says whether a worker serves the session, so that nothing may change under its hands.
    """
    sandbox, asked = resource.status.sandbox, sections_of(policy)
    sections = [each for each in SECTIONS if each in asked or (each.undoes and sandbox.equipped)]
    saved_at = sandbox.saved_at
    made = [(section, section.content(policy, values)) for section in sections]
    if served:
        made = [
            (section, left)
            for section, content in made
            if (left := section.under_worker(content)) is not None
        ]
    return {
        "seconds": sum(section.seconds(policy) + SECTION_SECONDS for section in sections),
        "pause": to_wire(saved_at) if saved_at is not None else "",
        "environment": trust.plan_variables(policy, values) | commands_env(policy),
        "sections": [[section.name, content] for section, content in made],
    }


def undo_plan() -> dict[str, Any]:
    """Return the plan that removes what the policy of another session has asked for."""
    nothing = EffectiveStatus.model_construct()
    return {
        "seconds": 2 * SECTION_SECONDS,
        "sections": [[each.name, each.content(nothing, {})] for each in SECTIONS if each.undoes],
    }


def reason_of(section: str) -> Reason:
    """Return the reason of the condition for a section that failed."""
    return next((each.reason for each in SECTIONS if each.name == section), Reason.PREPARATION_FAILED)


def warning_reason_of(section: str) -> Reason:
    """Return the reason of what a section reports without failing."""
    return next((each.warning_reason for each in SECTIONS if each.name == section), Reason.PREPARATION_FAILED)
