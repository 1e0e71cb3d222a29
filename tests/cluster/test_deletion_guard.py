"""`kubectl delete -f deploy/` is safe to type: refused while there are ManagedSessions, and else it works."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from managed_session_api.names import API_VERSION, CLASS_PLURAL, FINALIZER, GROUP, KIND, PLURAL, SHARED_PLURAL
from managed_session_devkit.control_plane import ControlPlane, KubectlError, established
from managed_session_devkit.system.local_system import LocalSystem

from ..rights import expect_refusals
from ..support.sessions import QUICK, begin
from ..support.waiting import eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
APPLY = ("apply", "--server-side", "--force-conflicts", f"--filename={DEPLOY}")
DELETE = ("delete", f"--filename={DEPLOY}", "--wait=false")
DEFINITION = f"crd/{PLURAL}.{GROUP}"
SYSTEM = "--namespace=managed-sessions-system"
RESOURCES = "--namespace=managed-sessions"
OPERATOR = "managed-session-operator"
GUARDED = [
    ("namespace/managed-sessions",),
    ("namespace/managed-sessions-system",),
    (DEFINITION,),
    (f"crd/{CLASS_PLURAL}.{GROUP}",),
    (f"crd/{SHARED_PLURAL}.{GROUP}",),
    (f"deployment/{OPERATOR}", SYSTEM),
    (f"serviceaccount/{OPERATOR}", SYSTEM),
    (f"role/{OPERATOR}", SYSTEM),
    (f"rolebinding/{OPERATOR}", SYSTEM),
    (f"role/{OPERATOR}", RESOURCES),
    (f"rolebinding/{OPERATOR}", RESOURCES),
]
FREE = [
    ("deployment/managed-session-webhook", SYSTEM),
    ("rolebinding/managed-session-webhook", RESOURCES),
    (f"pdb/{OPERATOR}", SYSTEM),
]
REFUSED = "there are ManagedSessions in the namespace managed-sessions, such as "


@pytest.fixture(scope="module")
async def own_control_plane() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as control_plane:
        yield control_plane


@pytest.fixture
async def installed(own_control_plane: ControlPlane) -> ControlPlane:
    """deploy/ and one resource with the operator's finalizer; no operator runs."""
    await install(own_control_plane)
    return own_control_plane


async def install(control_plane: ControlPlane) -> None:
    await control_plane.kubectl(*APPLY)
    await established(control_plane.kubectl)
    session = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "kept", "namespace": "managed-sessions", "finalizers": [FINALIZER]},
        "spec": {"sessionID": "sesn_kept"},
    }
    await control_plane.kubectl("apply", "--filename=-", input=json.dumps(session))
    await guards(control_plane, DEFINITION)


async def refusal(control_plane: ControlPlane, *what: str) -> str:
    """Why this may not be deleted; empty where it may. Nothing is deleted."""
    try:
        await control_plane.kubectl("delete", *what, "--dry-run=server")
    except KubectlError as error:
        return str(error)
    return ""


async def guards(control_plane: ControlPlane, *what: str, session: str = "kept", seconds: float = 30) -> None:
    async def refuses() -> bool:
        return f"{REFUSED}{session}" in await refusal(control_plane, *what)

    await eventually("the API server has taken up the guard", refuses, seconds=seconds)


async def let_go(control_plane: ControlPlane) -> None:
    """The resource is deleted, its finalizer gone: what the operator would do."""
    await control_plane.kubectl(RESOURCES, "delete", PLURAL, "kept", "--wait=false")
    await control_plane.kubectl(
        RESOURCES, "patch", PLURAL, "kept", "--type=merge", '--patch={"metadata":{"finalizers":null}}'
    )


async def end_noticed(control_plane: ControlPlane) -> None:
    """Wait until the API server has seen the last resource go, which takes it a moment."""

    async def free() -> bool:
        return await refusal(control_plane, DEFINITION) == ""

    await eventually("the resource's end is noticed", free)


async def test_what_sandboxes_are_ended_with_stays_as_long_as_there_are_resources(
    installed: ControlPlane,
) -> None:
    for what in GUARDED:
        assert REFUSED in await refusal(installed, *what), what
    for what in FREE:
        assert await refusal(installed, *what) == "", what
    await installed.stop_api_server()
    await installed.start_api_server()
    # A restarted API server on a busy machine has taken longer than half a minute.
    await guards(installed, DEFINITION, seconds=90)
    await let_go(installed)
    await end_noticed(installed)
    for what in GUARDED:
        assert await refusal(installed, *what) == "", what


async def test_deletion_of_everything_is_refused_and_undone_by_an_apply(installed: ControlPlane) -> None:
    with pytest.raises(KubectlError, match="managed-sessions uninstall") as refused:
        await installed.kubectl(*DELETE)
    assert str(refused.value).count(REFUSED) == len(GUARDED)
    for what in GUARDED:
        deleted_at = await installed.kubectl("get", *what, "--output=jsonpath={.metadata.deletionTimestamp}")
        assert deleted_at == "", what
    await installed.kubectl(*APPLY)
    await guards(installed, DEFINITION)


async def test_guard_works_for_a_definition_that_was_deleted_and_made_again(installed: ControlPlane) -> None:
    await let_go(installed)
    await end_noticed(installed)
    await installed.kubectl("delete", DEFINITION)
    assert await refusal(installed, "namespace/managed-sessions") == ""
    await install(installed)
    for what in GUARDED:
        assert REFUSED in await refusal(installed, *what), what


async def test_a_deployment_of_the_same_name_elsewhere_may_be_deleted(installed: ControlPlane) -> None:
    await installed.kubectl("create", "deployment", OPERATOR, "--image=another", "--namespace=default")
    assert await refusal(installed, f"deployment/{OPERATOR}", "--namespace=default") == ""


async def test_guard_can_be_taken_away(installed: ControlPlane) -> None:
    await installed.kubectl("delete", "validatingadmissionpolicybinding", "managed-sessions-deletion-guard")

    async def free() -> bool:
        return await refusal(installed, DEFINITION) == ""

    await eventually("the API server has dropped the guard", free)


async def test_refused_deletion_leaves_an_operator_that_ends_the_sandboxes() -> None:
    with contextlib.ExitStack() as rights_end:
        await refused_then_deleted(rights_end)


async def refused_then_deleted(rights_end: contextlib.ExitStack) -> None:
    async with LocalSystem(operator_settings=QUICK, delete_sessions_at_exit=False) as system:
        async with begin(system) as conversation:
            assert await conversation.say("Run: echo hello") == "hello"
            # Of what is not guarded, the webhook loses its rights, and no kubelet ends it here.
            rights_end.enter_context(expect_refusals(system.namespace, "managed-session-webhook"))
            with pytest.raises(KubectlError, match="there are ManagedSessions"):
                await system.control_plane.kubectl(*DELETE)
            assert await conversation.say("Run: echo still served") == "still served"
        await system.kubectl("delete", PLURAL, "--all", "--timeout=50s")
        assert await system.e2b_admin.sandboxes("running", "paused") == []
        await end_noticed(system.control_plane)
        for namespace in (system.namespace, system.system_namespace):
            rights_end.enter_context(expect_refusals(namespace, OPERATOR))
        deletions = await system.control_plane.kubectl(*DELETE, "--ignore-not-found")
        assert f'deployment.apps "{OPERATOR}" deleted' in deletions
