"""What people may do who are bound to the built-in ClusterRoles, or to those of deploy/ alone."""

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from managed_session_api.names import (
    API_VERSION,
    CLASS_KIND,
    CLASS_PLURAL,
    GROUP,
    PLURAL,
    RESOURCE_NAMESPACE,
    SHARED_PLURAL,
    SYSTEM_NAMESPACE,
)
from managed_session_devkit.control_plane import ControlPlane, KubectlError

from ..support.waiting import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
SESSIONS = f"{PLURAL}.{GROUP}"
CLASSES = f"{CLASS_PLURAL}.{GROUP}"
SHARED = f"{SHARED_PLURAL}.{GROUP}"
BUILT_IN = ("view", "edit", "admin")
OWN = tuple(f"managed-sessions-{name}" for name in BUILT_IN)

READ = {"get", "list", "watch"}
CHANGE = READ | {"create", "update", "patch", "delete"}
EVERYTHING = CHANGE | {"deletecollection"}
ON_SESSIONS = dict(zip(BUILT_IN + OWN, (READ, CHANGE, EVERYTHING) * 2, strict=True))
ON_CLASSES = dict(zip(BUILT_IN + OWN, (READ, READ, EVERYTHING) * 2, strict=True))


@pytest.fixture(scope="module")
async def installed() -> AsyncIterator[ControlPlane]:
    """deploy/, and one user for each role, called like it and bound to it in the resources' namespace."""
    async with ControlPlane() as control_plane:
        await control_plane.kubectl("apply", f"--filename={DEPLOY}")
        await aggregate(control_plane)
        for role in BUILT_IN + OWN:
            await control_plane.kubectl(
                "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}",
                f"--namespace={RESOURCE_NAMESPACE}",
            )  # fmt: skip

        async def roles_count() -> bool:
            held = [await rights(control_plane, role, RESOURCE_NAMESPACE) for role in BUILT_IN + OWN]
            return all((SESSIONS, "get") in each for each in held)

        await eventually("the API server has taken up the roles", roles_count)
        yield control_plane


async def aggregate(control_plane: ControlPlane) -> None:
    """What the controller manager does, which does not run here: fill the roles that aggregate others."""
    for name in BUILT_IN:
        role = await get(control_plane, "clusterrole", name)
        rules: list[dict[str, Any]] = []
        for selector in role["aggregationRule"]["clusterRoleSelectors"]:
            (label,) = selector["matchLabels"].items()
            selected = await get(control_plane, "clusterrole", f"--selector={'='.join(label)}")
            rules += itertools.chain.from_iterable(each.get("rules") or [] for each in selected["items"])
        patch = json.dumps({"rules": rules})
        await control_plane.kubectl("patch", "clusterrole", name, "--type=merge", f"--patch={patch}")


async def get(control_plane: ControlPlane, *what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await control_plane.kubectl("get", *what, "--output=json"))
    return found


async def rights(control_plane: ControlPlane, user: str, namespace: str) -> set[tuple[str, str]]:
    """Resource and verb of all that the API server lets the user do in the namespace."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = await control_plane.kubectl(
        "create", f"--as={user}", "--validate=false", "--output=json", "--filename=-",
        input=json.dumps(review),
    )  # fmt: skip
    return {
        (f"{resource}.{group}" if group else resource, verb)
        for rule in json.loads(answer)["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("role", BUILT_IN + OWN)
async def test_holder_has_these_verbs_on_sessions_and_classes_and_writes_no_status(
    installed: ControlPlane, role: str
) -> None:
    found = await rights(installed, role, RESOURCE_NAMESPACE)
    ours = {(resource, verb) for resource, verb in found if GROUP in resource or "*" in resource}
    on_sessions = {(SESSIONS, verb) for verb in ON_SESSIONS[role]}
    on_shared = {(SHARED, verb) for verb in READ}
    assert ours == on_sessions | {(CLASSES, verb) for verb in ON_CLASSES[role]} | on_shared


@pytest.mark.parametrize("role", ["view", *OWN])
async def test_session_tokens_cannot_be_read(installed: ControlPlane, role: str) -> None:
    found = await rights(installed, role, RESOURCE_NAMESPACE)
    assert not {resource for resource, _ in found} & {"secrets", "*"}


async def test_built_in_edit_reads_secrets_as_everywhere(installed: ControlPlane) -> None:
    """The reason why the role of deploy/ is what people should be bound to."""
    assert ("secrets", "get") in await rights(installed, "edit", RESOURCE_NAMESPACE)


@pytest.mark.parametrize("namespace", ["default", SYSTEM_NAMESPACE])
async def test_rights_end_at_the_namespace(installed: ControlPlane, namespace: str) -> None:
    nobody = await rights(installed, "nobody", namespace)
    for role in BUILT_IN + OWN:
        assert await rights(installed, role, namespace) == nobody


async def test_kubectl_says_the_same(installed: ControlPlane) -> None:
    arguments = ("auth", "can-i", f"--namespace={RESOURCE_NAMESPACE}", "--as=view")
    assert await installed.kubectl(*arguments, "watch", SESSIONS) == "yes\n"
    with pytest.raises(KubectlError):
        await installed.kubectl(*arguments, "delete", SESSIONS)


async def test_only_admins_change_classes(installed: ControlPlane) -> None:
    session_class = {
        "apiVersion": API_VERSION,
        "kind": CLASS_KIND,
        "metadata": {"name": "gold", "namespace": RESOURCE_NAMESPACE},
        "spec": {},
    }
    arguments = ("create", "--dry-run=server", "--validate=false", "--filename=-")
    await installed.kubectl(*arguments, "--as=managed-sessions-admin", input=json.dumps(session_class))
    with pytest.raises(KubectlError, match="forbidden"):
        await installed.kubectl(*arguments, "--as=managed-sessions-edit", input=json.dumps(session_class))
