"""Draws `doctor`'s conclusions about the dashboard: its rights, and who can sign in. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from managed_session_api.credentials import Credential

from managed_session_cli.cluster import Object, Permission
from managed_session_cli.diagnosis import Check, CheckResult
from managed_session_cli.installation import DASHBOARD

_APPLY = (
    "Run `managed-sessions install --image REF --dashboard` again, or apply deploy/dashboard/. "
    "With the chart, set `dashboard.enabled`."
)
_OPEN = "open it with `managed-sessions dashboard`"
_REVIEWS = ("tokenreviews", "subjectaccessreviews")


def rights_of(manifests: Iterable[Object]) -> list[Permission]:
    """Return the permissions that the dashboard's own roles give."""
    return [each for role in manifests if _is_own_role(role) for each in _permissions(role)]


def _is_own_role(manifest: Object) -> bool:
    return manifest["kind"] in ("Role", "ClusterRole") and manifest["metadata"]["name"] == DASHBOARD


def _permissions(role: Object) -> Iterator[Permission]:
    namespace = role["metadata"].get("namespace", "")
    for rule in role["rules"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield Permission(verb, rule["apiGroups"][0], resource, namespace)


def dashboard_checks(missing: Collection[Permission], token: str | None) -> list[Check]:
    """Check that the dashboard sees what it shows, and that somebody can sign in.

    Args:
        missing: permissions that it lacks.
        token: its static token, "" if there is none; None if that may not be read.
    """
    reviews = [each for each in missing if each.resource in _REVIEWS]
    unseen = [each for each in missing if each not in reviews]
    return [_rights(unseen), _sign_in(token, can_review=not reviews)]


def _rights(unseen: Collection[Permission]) -> Check:
    if not unseen:
        return Check("dashboard rights", CheckResult.OK, "it may watch all that it shows")
    text = f"its ServiceAccount lacks permissions: {'; '.join(str(each) for each in unseen)}"
    return Check("dashboard rights", CheckResult.FAILED, text, _APPLY)


def _sign_in(token: str | None, *, can_review: bool) -> Check:
    ways = [
        *(["tokens of the cluster"] if can_review else []),
        *([f"the static token in the Secret {DASHBOARD}"] if token else []),
    ]
    if ways:
        return Check("dashboard sign-in", CheckResult.OK, f"with {' or '.join(ways)}; {_OPEN}")
    if token is None:
        text = f"it may not review tokens of the cluster, and you may not read the Secret {DASHBOARD}"
        return Check("dashboard sign-in", CheckResult.SKIPPED, text)
    text = f"nobody can: it may not review tokens of the cluster, and the Secret {DASHBOARD} has no token"
    fix = f"{_APPLY} Or put a token under {Credential.DASHBOARD_TOKEN} into this Secret."
    return Check("dashboard sign-in", CheckResult.FAILED, text, fix)
