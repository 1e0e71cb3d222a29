"""The part of the demo about classes: applies them, and shows what a session got from one and from where."""

import json
from typing import Any

import yaml
from managed_session_api.names import CLASS_PLURAL

from managed_session_devkit.demo.demo_log import DemoLog
from managed_session_devkit.system.local_system import LocalSystem

CLASS_NAME = "gold"
CLASS_METADATA = {"team": "gold"}
"""Metadata of the sessions that the class selects."""

_DENIED = "198.51.100.0/24"
"""A range of addresses for documentation, which nobody uses."""
MANIFEST = f"""\
apiVersion: managedagents.dev/v1alpha1
kind: ManagedSessionClass
metadata:
  name: {CLASS_NAME}
spec:
  selector:
    sessionMetadata:
      matchLabels: {{team: gold}}
  session:
    sandbox:
      env: {{TEAM: gold}}
      metadata: {{team: gold}}
      network:
        deny: ["{_DENIED}"]
"""
_KNOWN_SECONDS = 30


async def apply_class(system: LocalSystem, log: DemoLog, name: str, manifest: str) -> None:
    """Apply a class, and wait until it is in force.

    Raises:
        KubectlError: the API server refused it, or it did not come into force.
    """
    log.output(f"cat {name}.yaml", manifest)
    log.output(
        f"kubectl apply --filename={name}.yaml",
        await system.kubectl("apply", "--filename=-", input=manifest),
    )
    await system.kubectl(
        "wait", f"{CLASS_PLURAL}/{name}", "--for=condition=Ready", f"--timeout={_KNOWN_SECONDS}s"
    )
    log.output("kubectl get msc", await system.kubectl("get", "msc"))


async def show_class(
    system: LocalSystem, log: DemoLog, *, name: str, sandbox_id: str, printed: str, without_class: str
) -> None:
    """Show the class at work, and check that the sandbox has what it says.

    Args:
        system: the demo's system.
        log: where to print.
        name: of the resource that the class serves.
        sandbox_id: of this resource's sandbox.
        printed: what a command in this sandbox printed, `$TEAM` included.
        without_class: name of a resource that no class serves.

    Raises:
        CheckFailedError: something is not as the class says.
        KubectlError: kubectl failed.
    """
    wide = ("get", "managedsessions", "--output=wide")
    log.output(f"kubectl {' '.join(wide)}", await system.kubectl(*wide))
    origins_path = "--output=jsonpath={.status.effective.origins}"
    origins = await system.kubectl("get", "managedsession", name, origins_path)
    log.output(f"kubectl get managedsession {name} {origins_path}", origins)
    recorded, other = await _status(system, name), await _status(system, without_class)
    log.check(
        "the class serves the second session, and not the first one",
        recorded.get("class", {}).get("name") == CLASS_NAME and "class" not in other,
        json.dumps(recorded.get("class")),
    )
    session = yaml.safe_load(MANIFEST)["spec"]["session"]
    set_by_class = {field: json.loads(origins or "{}").get(field) for field in session["sandbox"]}
    log.check(
        "the status says which values come from the class, and from which generation of it",
        set(set_by_class.values()) == {f"class/{CLASS_NAME}@1"},
        json.dumps(set_by_class),
    )
    log.check("the sandbox has the class's variable", "team: gold" in printed, printed.splitlines()[0])
    sandbox = await system.e2b_admin.sandbox(sandbox_id)
    denied = sandbox.raw["network"].get("denyOut")
    log.check(
        "E2B has the class's metadata and network rules for it",
        sandbox.metadata.get("team") == "gold" and denied == [_DENIED],
        f"team={sandbox.metadata.get('team')} denyOut={json.dumps(denied)}",
    )


async def _status(system: LocalSystem, name: str) -> dict[str, Any]:
    found = json.loads(await system.kubectl("get", "managedsession", name, "--output=json"))
    status: dict[str, Any] = found["status"]
    return status
