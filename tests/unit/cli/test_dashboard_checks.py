"""What `doctor` concludes about the dashboard's rights, and about who can sign in."""

from __future__ import annotations

import pytest
from managed_session_cli.cluster import Permission
from managed_session_cli.dashboard_checks import dashboard_checks, rights_of
from managed_session_cli.diagnosis import CheckResult
from managed_session_cli.installation import Installation

REVIEW = Permission("create", "authentication.k8s.io", "tokenreviews")
WATCH = Permission("watch", "managedagents.dev", "managedsessions", "managed-sessions")


def test_rights_are_those_of_its_own_roles() -> None:
    rights = rights_of(Installation().dashboard_manifests())
    assert {REVIEW, WATCH} <= set(rights)
    assert {each.verb for each in rights if each.namespace} == {"list", "watch"}


@pytest.mark.parametrize(
    ("missing", "token", "result", "said"),
    [
        ([], "", CheckResult.OK, "with tokens of the cluster; open it with `managed-sessions dashboard`"),
        ([], None, CheckResult.OK, "with tokens of the cluster; open"),
        ([], "secret", CheckResult.OK, "with tokens of the cluster or the static token in the Secret"),
        ([REVIEW], "secret", CheckResult.OK, "with the static token in the Secret"),
        ([REVIEW], "", CheckResult.FAILED, "nobody can"),
        ([REVIEW], None, CheckResult.SKIPPED, "you may not read the Secret"),
    ],
)
def test_sign_in_needs_reviews_of_tokens_or_a_static_token(
    missing: list[Permission], token: str | None, result: CheckResult, said: str
) -> None:
    rights, sign_in = dashboard_checks(missing, token)
    assert rights.result is CheckResult.OK
    assert sign_in.result is result
    assert said in sign_in.detail
    assert "secret" not in sign_in.detail


def test_a_missing_right_to_watch_fails_by_name_with_a_remedy() -> None:
    rights, sign_in = dashboard_checks([WATCH], "")
    assert rights.result is CheckResult.FAILED
    assert "watch managedsessions.managedagents.dev in managed-sessions" in rights.detail
    assert "--dashboard" in rights.remedy
    assert sign_in.result is CheckResult.OK
