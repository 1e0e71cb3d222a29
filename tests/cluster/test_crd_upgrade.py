"""Resources written under an earlier CRD are kept, whole, by today's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from managed_session_api import names
from managed_session_devkit.control_plane import ControlPlane, established
from managed_session_devkit.system.local_system import LocalSystem

from ..support.sessions import QUICK, becomes, begin, paused, resource, sandboxes_of
from ..support.systems import local_system
from ..support.waiting import eventually

ROOT = Path(__file__).parents[2]
DEFINITION = Path("crds/managedsessions.yaml")
FULL = "every-field-is-set"

EXAMPLES: dict[str, Any] = {
    "spec.sessionID": "sesn_01EveryField",
    "spec.routing.scope": "session",
    "spec.environmentID": "env_01OfSomebodyElse",
    "spec.sandbox.metadata": {"team": "a"},
    "status.work.trace.traceparent": f"00-{7:032x}-{8:016x}-01",
    "spec.sandbox.env": {"REPORT_LANGUAGE": "en"},
    "spec.sandbox.network.allow": ["api.anthropic.com"],
    "spec.sandbox.network.deny": ["0.0.0.0/0"],
    "spec.sandbox.network.preset": "open",
    "spec.sandbox.secrets[].host": "api.anthropic.com",
    "spec.sandbox.setup.repositories": [
        {
            "url": "https://git.example.com/code",
            "path": "code",
            "ref": "x",
            "depth": 1,
            "credential": {"secretRef": {"name": "x", "key": "x"}, "username": "x"},
        },
        {
            "url": "ssh://git@git.example.com/more",
            "path": "more",
            "credential": {"secretRef": {"name": "x", "key": "x"}, "knownHosts": "x"},
        },
    ],
    "spec.sandbox.setup.files": [
        {"path": "a", "mode": "0644", "url": "https://files.example.com/a", "sha256": "0" * 64},
        {"path": "b", "configMap": {"name": "x", "key": "x"}},
        {"path": "c", "secret": {"name": "x", "key": "x"}},
    ],
    "spec.sandbox.setup.fromSessionMetadata.policy": "Allow",
    "spec.sandbox.setup.fromSessionMetadata.urlPrefixes": ["https://git.example.com/"],
    "spec.sandbox.setup.fromSessionMetadata.credentials[].urlPrefix": "https://git.example.com/",
    "spec.sandbox.volumes[].path": "/mnt/volume",
    "spec.sandbox.buckets[].path": "/mnt/bucket",
    "spec.sandbox.buckets[].readOnly": False,
    "spec.sandbox.buckets[].endpoint": "https://storage.example.com",
    "spec.sandbox.archil[].path": "/mnt/archil",
    "spec.sandbox.outputs.bucketPath": "/mnt/bucket",
    "spec.sandbox.trust.certificateAuthorities": [{"configMapRef": {"name": "x", "key": "x"}}],
    "spec.sandbox.proxy.httpProxy": "http://proxy.example.com:3128",
    "spec.sandbox.proxy.httpsProxy": "http://proxy.example.com:3128",
    "status.activeToday.day": "2026-11-23",
    "status.cost.currency": "USD",
    "status.cost.listCost": "126",
    "status.cost.budget": "2500",
    "status.cost.sandboxCost": "3.25",
    "status.cost.days": [{"day": "2026-11-23", "listCost": "126", "activeSeconds": 42, "sandboxSeconds": 77}],
    "status.effective.volumes": [{"name": "x", "path": "/mnt/volume"}],
    "status.effective.buckets": [{"type": "S3", "bucket": "xxx", "path": "/mnt/bucket"}],
    "status.effective.archil": [
        {"disk": "x", "region": "x", "path": "/mnt/archil", "secretRef": {"name": "x"}}
    ],
    "status.conditions[].reason": "Idle",
}
"""Where the schema alone does not say what is valid."""


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def schema(definition: dict[str, Any]) -> dict[str, Any]:
    (version,) = definition["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def shape(of: Any) -> Any:
    """A schema without its prose."""
    if isinstance(of, dict):
        return {name: shape(value) for name, value in of.items() if name != "description"}
    return [shape(each) for each in of] if isinstance(of, list) else of


@cache
def earlier() -> list[tuple[str, dict[str, Any]]]:
    """(commit, definition) of the first version in git's history and of the last that differ from today's."""
    try:
        commits = git("log", "--format=%h", "--reverse", "--", str(DEFINITION)).split()
        shallow = git("rev-parse", "--is-shallow-repository").strip() == "true"
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(
            f"this test reads the earlier definitions from git's history, and there is none ({error})"
        )
    if shallow:
        pytest.fail("this clone has no history: `git fetch --unshallow` brings the earlier definitions")
    today = shape(schema(yaml.safe_load((ROOT / DEFINITION).read_text())))
    found = [(commit, yaml.safe_load(git("show", f"{commit}:{DEFINITION}"))) for commit in commits]
    different = [(commit, each) for commit, each in found if shape(schema(each)) != today]
    assert different, "the definition has never changed"
    return different[:1] + different[-1:]


def example(of: dict[str, Any], path: str) -> Any:
    """A value of this schema with every field set."""
    if path in EXAMPLES:
        return EXAMPLES[path]
    if "enum" in of:
        return of["enum"][-1]
    match of["type"]:
        case "object" if "properties" in of:
            return {name: example(each, f"{path}.{name}") for name, each in of["properties"].items()}
        case "object":
            return {"key": "value"}
        case "array":
            return [example(of["items"], f"{path}[]")]
        case "integer":
            return max(of.get("minimum", 0), min(of["maximum"], 61) if "maximum" in of else 1)
        case "boolean":
            return True
    return "2026-11-23T16:00:00.000000Z" if of.get("format") == "date-time" else "x" * of.get("minLength", 1)


@pytest.fixture(scope="module")
async def control_plane() -> AsyncIterator[ControlPlane]:
    """One of its own, whose definition may change."""
    async with ControlPlane() as running:
        yield running


@pytest.fixture(scope="module")
async def system(control_plane: ControlPlane) -> AsyncIterator[LocalSystem]:
    async with local_system(control_plane, operator_settings=QUICK) as running:
        yield running


async def written(system: LocalSystem, name: str) -> dict[str, Any]:
    found = json.loads(await system.kubectl("get", names.PLURAL, name, "--output=json"))
    return {"spec": found["spec"], "status": found.get("status", {})}


async def rewrite(system: LocalSystem, name: str, mark: str) -> None:
    """Have the API server validate, prune and store the resource and its status anew."""
    await system.kubectl("label", "--overwrite", f"{names.PLURAL}/{name}", f"written-by={mark}")
    patch = json.dumps({"status": {"observedGeneration": 1}})
    await system.kubectl(
        "patch", names.PLURAL, name, "--subresource=status", "--type=merge", f"--patch={patch}"
    )
    patch = json.dumps({"status": {"observedGeneration": 2}})
    await system.kubectl(
        "patch", names.PLURAL, name, "--subresource=status", "--type=merge", f"--patch={patch}"
    )


async def apply_definition(system: LocalSystem, definition: dict[str, Any]) -> None:
    await system.kubectl(
        "apply", "--server-side", "--force-conflicts", "--filename=-", input=yaml.safe_dump(definition)
    )
    await established(system.kubectl, f"{names.PLURAL}.{names.GROUP}")


async def make_full(system: LocalSystem, definition: dict[str, Any]) -> dict[str, Any]:
    """A resource with every field of the definition, of a session that is another installation's."""
    properties = schema(definition)["properties"]
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": FULL},
        "spec": example(properties["spec"], "spec"),
    }
    await system.kubectl("create", "--validate=strict", "--filename=-", input=json.dumps(body))
    status = {"status": example(properties["status"], "status")}
    await system.kubectl(
        "patch", names.PLURAL, FULL, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"
    )
    kept = await written(system, FULL)
    assert kept == {"spec": body["spec"], **status}, "the earlier definition took every field"
    return kept


@pytest.mark.parametrize("age", ["the first", "the previous"])
async def test_resources_of_an_earlier_definition_lose_nothing_and_are_served(
    system: LocalSystem, age: str
) -> None:
    commit, definition = earlier()[0 if age == "the first" else -1]
    async with begin(system) as conversation:
        assert "kept" in await conversation.say(f"Run: echo kept since {commit} | tee /mnt/session/file")
        await becomes(system, conversation.session_id, "Idle", status="True")
        for pod in (system.webhook, system.operator):
            await pod.process.stop()
        await apply_definition(system, definition)
        await rewrite(system, names.resource_name(conversation.session_id), "earlier")
        before = await make_full(system, definition)

        await system.control_plane.kubectl(
            "apply",
            "--server-side",
            "--force-conflicts",
            "--validate=strict",
            f"--filename={ROOT / 'deploy'}",
        )
        assert await written(system, FULL) == before
        await rewrite(system, FULL, "today")
        after = await written(system, FULL)
        assert after == before | {"status": before["status"] | {"observedGeneration": 2}}

        for pod in (system.webhook, system.operator):
            await pod.start()
            await pod.wait_ready()
        await system.kubectl(
            "wait", f"{names.PLURAL}/{FULL}", "--timeout=50s",
            "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=EnvironmentMismatch",
        )  # fmt: skip
        assert (await written(system, FULL))["spec"] == before["spec"], (
            "the operator writes it, and loses nothing"
        )
        assert "kept" in await conversation.say("Run: cat /mnt/session/file")
        await eventually("the sandbox is paused", lambda: paused(system, conversation.session_id))
        assert len(await sandboxes_of(system, conversation.session_id)) == 1

        async def turns_written_down() -> bool:
            return bool((await resource(system, conversation.session_id))["status"]["turns"] == 2)

        await eventually("both turns are written down", turns_written_down)
    await system.kubectl(
        "patch", names.PLURAL, FULL, "--type=merge", '--patch={"metadata":{"finalizers":null}}'
    )
    await system.kubectl("delete", names.PLURAL, FULL, "--timeout=50s")
