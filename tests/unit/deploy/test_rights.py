"""`make check-rights` finds rights that nobody uses, and requests that were refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ...rights import EXPECTED, PROCESSES, expect_refusals, granted, main, requests, uses

WEBHOOK, OPERATOR, _ = PROCESSES
SYSTEM = "test-1-system"
RESOURCES = "test-1"
ROLES: list[dict[str, Any]] = [
    {
        "kind": "Role",
        "metadata": {"name": OPERATOR, "namespace": "managed-sessions"},
        "rules": [{"apiGroups": [""], "resources": ["secrets", "events"], "verbs": ["create"]}],
    },
    {
        "kind": "Role",
        "metadata": {"name": OPERATOR, "namespace": "managed-sessions-system"},
        "rules": [
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
            {
                "apiGroups": [""],
                "resources": ["namespaces"],
                "resourceNames": ["managed-sessions-system"],
                "verbs": ["get"],
            },
        ],
    },
]


def audited(
    verb: str, resource: str, *, namespace: str = RESOURCES, bound_in: str | None = None, **changes: Any
) -> str:
    """Return a line of the audit log for an operator's request that a RoleBinding allowed."""
    bound = bound_in or namespace
    reason = f'RBAC: allowed by RoleBinding "{OPERATOR}/{bound}" of Role "{OPERATOR}" to ServiceAccount "x"'
    return json.dumps(
        {
            "user": {"username": f"system:serviceaccount:{SYSTEM}:{OPERATOR}"},
            "userAgent": OPERATOR,
            "verb": verb,
            "objectRef": {
                "resource": resource,
                "namespace": namespace,
                "apiVersion": "v1",
                "name": namespace,
            },
            "requestReceivedTimestamp": datetime.now(UTC).isoformat(),
            "annotations": {
                "authorization.k8s.io/decision": "allow",
                "authorization.k8s.io/reason": reason,
            },
            **changes,
        }
    )


def refused(verb: str, resource: str, **changes: Any) -> str:
    notes = {"authorization.k8s.io/decision": "forbid", "authorization.k8s.io/reason": ""}
    return audited(verb, resource, annotations=notes, **changes)


def used(*lines: str) -> set[str]:
    return {
        str(right) for right in granted(ROLES) if any(uses(request, right) for request in requests(lines))
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (audited("create", "secrets"), {f"Role {OPERATOR} in managed-sessions: create secrets"}),
        (audited("create", "events"), {f"Role {OPERATOR} in managed-sessions: create events"}),
        (
            audited("create", "events", namespace=SYSTEM),
            {f"Role {OPERATOR} in managed-sessions-system: create events"},
        ),
        (
            audited("get", "namespaces", namespace=SYSTEM),
            {f"Role {OPERATOR} in managed-sessions-system: get namespaces managed-sessions-system"},
        ),
        (audited("get", "namespaces", namespace="another", bound_in=SYSTEM), set()),
        (audited("delete", "secrets"), set()),
        (audited("create", "secrets", userAgent="kubectl/v1.37.2"), set()),
        (audited("create", "secrets", user={"username": "system:admin"}), set()),
        (refused("create", "secrets"), set()),
    ],
)
def test_rights_that_a_request_uses(line: str, expected: set[str]) -> None:
    assert used(line) == expected


def test_incomplete_line_of_a_killed_api_server_is_ignored() -> None:
    assert used(audited("create", "secrets")[:40], audited("create", "events")) == {
        f"Role {OPERATOR} in managed-sessions: create events"
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of a run in which every right was used and nothing was refused, with the roles above."""
    monkeypatch.setenv("MANAGED_SESSIONS_AUDIT_FOLDER", str(tmp_path))
    monkeypatch.setattr("tests.rights.load_manifests", lambda: ROLES)
    monkeypatch.setattr("tests.rights.load_dashboard_manifests", list)
    lines = [
        audited("create", "secrets"),
        audited("create", "events"),
        audited("create", "events", namespace=SYSTEM),
        audited("get", "namespaces", namespace=SYSTEM),
    ]
    (tmp_path / "one.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_used_rights_without_refusals_pass(folder: Path) -> None:
    assert main([str(folder)]) == 0


def test_unused_right_fails_and_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "one.jsonl").write_text(audited("create", "secrets"))
    assert main([str(folder)]) == 1
    unused = [line for line in capsys.readouterr().out.splitlines() if line.startswith("NEVER USED")]
    assert len(unused) == 3
    assert f"Role {OPERATOR} in managed-sessions: create events" in unused[0]


def test_refused_request_fails_and_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "two.jsonl").write_text(refused("list", "pods"))
    assert main([str(folder)]) == 1
    assert f"{OPERATOR}: list pods" in capsys.readouterr().out


def test_expected_refusal_is_not_a_finding(folder: Path) -> None:
    with expect_refusals(RESOURCES, OPERATOR, "secrets"):
        (folder / "two.jsonl").write_text(refused("create", "secrets"))
    assert main([str(folder)]) == 0


@pytest.mark.parametrize(
    ("namespace", "account", "resource"),
    [(SYSTEM, OPERATOR, "secrets"), (RESOURCES, WEBHOOK, "secrets"), (RESOURCES, OPERATOR, "events")],
)
def test_expected_refusal_covers_no_other_refusal(
    folder: Path, namespace: str, account: str, resource: str
) -> None:
    with expect_refusals(namespace, account, resource):
        (folder / "two.jsonl").write_text(refused("create", "secrets"))
    assert main([str(folder)]) == 1


def test_starting_api_server_may_refuse(folder: Path) -> None:
    now = datetime.now(UTC).isoformat()
    for name in ("two", "three"):
        (folder / f"{name}.jsonl").write_text(refused("create", "secrets"))
        (folder / f"{name}.starts").write_text(json.dumps({"since": now, "until": now}))
    assert main([str(folder)]) == 0
    (folder / "three.starts").unlink()
    assert main([str(folder)]) == 1, "another API server's start is no reason"


def test_expected_refusal_covers_no_earlier_refusal(folder: Path) -> None:
    (folder / "two.jsonl").write_text(refused("create", "secrets"))
    with expect_refusals(RESOURCES, OPERATOR, "secrets"):
        pass
    assert main([str(folder)]) == 1


def test_folder_without_logs_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / EXPECTED).write_text("")
    assert main([str(tmp_path)]) == 2
    assert "make test" in capsys.readouterr().err
