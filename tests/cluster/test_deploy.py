"""deploy/ on a real API server: one apply brings all of it, with exactly the rights that it should give."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from managed_session_api.names import (
    CLASS_PLURAL,
    PLURAL,
    RESOURCE_NAMESPACE,
    SHARED_PLURAL,
    SYSTEM_NAMESPACE,
)
from managed_session_devkit.control_plane import ControlPlane, KubectlError, established

from ..support.waiting import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
WEBHOOK = "managed-session-webhook"
OPERATOR = "managed-session-operator"
OBJECTS = [each for path in sorted(DEPLOY.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
"""Of the files directly in the folder: kubectl takes no others."""
APPLY = ("apply", f"--filename={DEPLOY}", "--validate=strict")

Right = tuple[str, str, str, str]
"""API group, resource, name ("" for any), verb."""

RIGHTS: dict[tuple[str, str], set[Right]] = {
    (WEBHOOK, RESOURCE_NAMESPACE): {
        *(("managedagents.dev", PLURAL, "", verb) for verb in ("create", "get", "list")),
        ("managedagents.dev", f"{PLURAL}/status", "", "patch"),
    },
    (WEBHOOK, SYSTEM_NAMESPACE): set(),
    (WEBHOOK, "default"): set(),
    (OPERATOR, RESOURCE_NAMESPACE): {
        *(
            ("managedagents.dev", PLURAL, "", verb)
            for verb in ("get", "list", "watch", "create", "patch", "delete")
        ),
        ("managedagents.dev", f"{PLURAL}/status", "", "patch"),
        *(("managedagents.dev", CLASS_PLURAL, "", verb) for verb in ("list", "watch")),
        ("managedagents.dev", f"{CLASS_PLURAL}/status", "", "patch"),
        *(
            ("managedagents.dev", SHARED_PLURAL, "", verb)
            for verb in ("get", "list", "create", "patch", "delete")
        ),
        ("managedagents.dev", f"{SHARED_PLURAL}/status", "", "patch"),
        *(("", "secrets", "", verb) for verb in ("get", "create", "update", "delete")),
        ("", "configmaps", "", "get"),
        ("", "events", "", "create"),
        ("", "events", "", "list"),
    },
    (OPERATOR, SYSTEM_NAMESPACE): {
        ("coordination.k8s.io", "leases", "", "create"),
        ("coordination.k8s.io", "leases", OPERATOR, "get"),
        ("coordination.k8s.io", "leases", OPERATOR, "update"),
        ("", "events", "", "create"),
        ("", "namespaces", SYSTEM_NAMESPACE, "get"),
    },
    (OPERATOR, "default"): set(),
}


@dataclass(frozen=True)
class Installed:
    """An API server on which deploy/ was applied, and what the apply printed."""

    control_plane: ControlPlane
    printed: str
    accounts: dict[str, Path]


@pytest.fixture(scope="module")
async def installed() -> AsyncIterator[Installed]:
    async with ControlPlane() as control_plane:
        printed = await control_plane.kubectl(*APPLY)
        await established(control_plane.kubectl)
        await control_plane.kubectl("create", "serviceaccount", "nobody", f"--namespace={SYSTEM_NAMESPACE}")
        accounts = {
            name: await control_plane.service_account_kubeconfig(SYSTEM_NAMESPACE, name)
            for name in (WEBHOOK, OPERATOR, "nobody")
        }
        here = Installed(control_plane, printed, accounts)

        async def roles_count() -> bool:
            return all([RIGHTS[each] <= await rights(here, *each) for each in RIGHTS])

        await eventually("the API server has taken up the roles", roles_count)
        yield here


async def test_first_apply_creates_everything(installed: Installed) -> None:
    lines = installed.printed.splitlines()
    assert len(lines) == len(OBJECTS)
    assert [line for line in lines if not line.endswith(" created")] == []


async def test_second_apply_changes_nothing(installed: Installed) -> None:
    before = await versions(installed.control_plane)
    await installed.control_plane.kubectl(*APPLY)
    assert await versions(installed.control_plane) == before


async def versions(control_plane: ControlPlane) -> list[str]:
    """Each object of deploy/ with its resource version."""
    column = "{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}"
    found = await control_plane.kubectl(
        "get", f"--filename={DEPLOY}", f'--output=jsonpath={{range .items[*]}}{column}{{"\\n"}}{{end}}'
    )
    return found.splitlines()


async def test_server_side_apply_takes_over_without_conflicts(installed: Installed) -> None:
    applied = await installed.control_plane.kubectl(*APPLY, "--server-side")
    assert {line.rpartition(" ")[2] for line in applied.splitlines()} == {"serverside-applied"}


async def test_server_side_apply_works_on_an_empty_cluster() -> None:
    async with ControlPlane() as control_plane:
        for _ in range(2):
            applied = await control_plane.kubectl(*APPLY, "--server-side")
            assert {line.rpartition(" ")[2] for line in applied.splitlines()} == {"serverside-applied"}


@pytest.mark.parametrize("name", [WEBHOOK, OPERATOR])
async def test_pod_is_admitted_under_the_restricted_standard(installed: Installed, name: str) -> None:
    await create_pod(installed.control_plane, await pod_spec(installed.control_plane, name))


async def test_pod_that_may_run_as_root_is_not_admitted(installed: Installed) -> None:
    spec = await pod_spec(installed.control_plane, WEBHOOK)
    spec["securityContext"] = {"runAsUser": 0}
    with pytest.raises(KubectlError, match=r'violates PodSecurity "restricted'):
        await create_pod(installed.control_plane, spec)


async def pod_spec(control_plane: ControlPlane, deployment: str) -> dict[str, Any]:
    found = await control_plane.kubectl(
        "get", "deployment", deployment, f"--namespace={SYSTEM_NAMESPACE}", "--output=json"
    )
    spec: dict[str, Any] = json.loads(found)["spec"]["template"]["spec"]
    return spec


async def create_pod(control_plane: ControlPlane, spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
    await control_plane.kubectl(
        "create",
        "--dry-run=server",
        f"--namespace={SYSTEM_NAMESPACE}",
        "--filename=-",
        input=json.dumps(pod),
    )


async def review(installed: Installed, account: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The status of a review that the account asks for about itself."""
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = await installed.control_plane.kubectl(
        "create",
        "--validate=false",  # it would read the definitions of the cluster, which the account may not
        "--output=json",
        "--filename=-",
        input=json.dumps(body),
        kubeconfig=installed.accounts[account],
    )
    status: dict[str, Any] = json.loads(answer)["status"]
    return status


async def rights(installed: Installed, account: str, namespace: str) -> set[Right]:
    """All that the API server lets the account do in the namespace, by its own account."""
    status = await review(installed, account, "SelfSubjectRulesReview", {"namespace": namespace})
    return {
        (group, resource, name, verb)
        for rule in status["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(("account", "namespace"), list(RIGHTS))
async def test_account_has_these_rights_and_no_others(
    installed: Installed, account: str, namespace: str
) -> None:
    everyone = await rights(installed, "nobody", namespace)
    assert await rights(installed, account, namespace) - everyone == RIGHTS[account, namespace]


async def allowed(
    installed: Installed, account: str, verb: str, resource: str, group: str, namespace: str, name: str
) -> bool:
    """What `kubectl auth can-i` asks, with the account's own token."""
    resource, _, subresource = resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "name": name,
    }
    spec = {"resourceAttributes": attributes}
    return bool((await review(installed, account, "SelfSubjectAccessReview", spec))["allowed"])


@pytest.mark.parametrize(
    ("account", "verb", "resource", "group", "namespace", "name"),
    [
        (WEBHOOK, "create", PLURAL, "managedagents.dev", RESOURCE_NAMESPACE, ""),
        (WEBHOOK, "patch", f"{PLURAL}/status", "managedagents.dev", RESOURCE_NAMESPACE, "x"),
        (OPERATOR, "watch", PLURAL, "managedagents.dev", RESOURCE_NAMESPACE, ""),
        (OPERATOR, "patch", PLURAL, "managedagents.dev", RESOURCE_NAMESPACE, "x"),
        (OPERATOR, "patch", f"{PLURAL}/status", "managedagents.dev", RESOURCE_NAMESPACE, "x"),
        (OPERATOR, "update", "secrets", "", RESOURCE_NAMESPACE, "x-token"),
        (OPERATOR, "create", "events", "", RESOURCE_NAMESPACE, ""),
        (OPERATOR, "update", "leases", "coordination.k8s.io", SYSTEM_NAMESPACE, OPERATOR),
        (OPERATOR, "get", "namespaces", "", SYSTEM_NAMESPACE, SYSTEM_NAMESPACE),
        (OPERATOR, "create", "events", "", SYSTEM_NAMESPACE, ""),
    ],
)
async def test_account_may(
    installed: Installed, account: str, verb: str, resource: str, group: str, namespace: str, name: str
) -> None:
    assert await allowed(installed, account, verb, resource, group, namespace, name)


@pytest.mark.parametrize(
    ("account", "verb", "resource", "group", "namespace", "name"),
    [
        (WEBHOOK, "delete", PLURAL, "managedagents.dev", RESOURCE_NAMESPACE, "x"),
        (WEBHOOK, "patch", PLURAL, "managedagents.dev", RESOURCE_NAMESPACE, "x"),
        (WEBHOOK, "watch", PLURAL, "managedagents.dev", RESOURCE_NAMESPACE, ""),
        (WEBHOOK, "get", "secrets", "", RESOURCE_NAMESPACE, "x-token"),
        (WEBHOOK, "get", "secrets", "", SYSTEM_NAMESPACE, OPERATOR),
        (WEBHOOK, "create", PLURAL, "managedagents.dev", "default", ""),
        (WEBHOOK, "create", "pods", "", SYSTEM_NAMESPACE, ""),
        (OPERATOR, "get", "secrets", "", SYSTEM_NAMESPACE, OPERATOR),
        (OPERATOR, "patch", "events", "", RESOURCE_NAMESPACE, "x"),
        (OPERATOR, "list", "secrets", "", RESOURCE_NAMESPACE, ""),
        (OPERATOR, "list", "secrets", "", SYSTEM_NAMESPACE, ""),
        (OPERATOR, "list", "configmaps", "", RESOURCE_NAMESPACE, ""),
        (OPERATOR, "get", "configmaps", "", SYSTEM_NAMESPACE, "x"),
        (OPERATOR, "list", PLURAL, "managedagents.dev", "", ""),
        (OPERATOR, "update", "leases", "coordination.k8s.io", SYSTEM_NAMESPACE, "another"),
        (OPERATOR, "delete", "leases", "coordination.k8s.io", SYSTEM_NAMESPACE, OPERATOR),
        (OPERATOR, "get", "namespaces", "", RESOURCE_NAMESPACE, RESOURCE_NAMESPACE),
        (OPERATOR, "create", "pods", "", SYSTEM_NAMESPACE, ""),
        (OPERATOR, "get", "customresourcedefinitions", "apiextensions.k8s.io", "", ""),
    ],
)
async def test_account_may_not(
    installed: Installed, account: str, verb: str, resource: str, group: str, namespace: str, name: str
) -> None:
    assert not await allowed(installed, account, verb, resource, group, namespace, name)


async def test_operator_reads_the_uid_of_its_namespace(installed: Installed) -> None:
    arguments = ("get", "namespace", SYSTEM_NAMESPACE, "--output=jsonpath={.metadata.uid}")
    uid = await installed.control_plane.kubectl(*arguments, kubeconfig=installed.accounts[OPERATOR])
    assert uid == await installed.control_plane.kubectl(*arguments)


async def test_operator_creates_and_renews_its_lease(installed: Installed) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": OPERATOR, "namespace": SYSTEM_NAMESPACE},
        "spec": {"holderIdentity": "one", "leaseTransitions": 1},
    }
    for verb in ("create", "replace"):
        await installed.control_plane.kubectl(
            verb,
            "--validate=false",
            "--filename=-",
            input=json.dumps(lease),
            kubeconfig=installed.accounts[OPERATOR],
        )


async def test_webhook_is_told_that_it_may_not_delete(installed: Installed) -> None:
    with pytest.raises(KubectlError, match=r'cannot delete resource "managedsessions"'):
        await installed.control_plane.kubectl(
            "delete",
            PLURAL,
            "x",
            f"--namespace={RESOURCE_NAMESPACE}",
            kubeconfig=installed.accounts[WEBHOOK],
        )
