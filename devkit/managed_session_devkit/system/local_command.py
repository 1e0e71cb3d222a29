"""`managed-sessions local`: runs the system in the foreground, for people and for other programs."""

import asyncio
import json
import os
import shlex
import shutil
from typing import Any

from rich.console import Console

from managed_session_devkit.control_plane import ControlPlaneBinaries
from managed_session_devkit.system.clouds import clouds_from_environment, has_credentials
from managed_session_devkit.system.installation import installation_id
from managed_session_devkit.system.local_system import LocalSystem


async def run_local(
    binaries: ControlPlaneBinaries, *, simulate: bool | None, as_json: bool, console: Console
) -> None:
    """Start the system, print how to use it, and keep it running until cancelled.

    Args:
        binaries: binaries of the control plane.
        simulate: whether to use the simulators. None: only if the environment has no credentials.
        as_json: print one line of JSON to standard output when the system is ready, instead of text.
        console: where to print progress.

    Raises:
        CloudsError: credentials are incomplete.
        ProcessFailedError: a process that the system needs has ended.
    """
    if simulate is None:
        simulate = not has_credentials(os.environ)
    clouds = None if simulate else clouds_from_environment(os.environ)

    def report(line: str) -> None:
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)

    with installation_id() as own_id, console.status("Starting the system") as status:
        system = LocalSystem(
            binaries=binaries,
            clouds=clouds,
            # The ID of another installation would make this operator kill that one's sandboxes as orphans.
            installation_id=own_id,
            # Each run has a new etcd, so sandboxes of an earlier run never get their resources back.
            operator_settings={"orphan_grace_seconds": "0"},
            restart_pods=True,
            report=report,
        )
        try:
            async with system:
                status.stop()
                if as_json:
                    print(json.dumps(_description(system)), flush=True)
                else:
                    _explain(system, Console(highlight=False, soft_wrap=True))
                raise await system.failure()
        except asyncio.CancelledError:
            status.stop()
            report("Stopped. Nothing is left.")
            raise


def _description(system: LocalSystem) -> dict[str, Any]:
    endpoints = system.clouds.environment
    described: dict[str, Any] = {
        "webhookURL": system.webhook_url,
        "kubeconfig": str(system.kubeconfig),
        "namespace": system.namespace,
        "systemNamespace": system.system_namespace,
        "simulated": system.simulated,
        "environmentID": system.clouds.environment_id,
        "installationID": system.installation_id,
        "anthropicURL": endpoints.get("ANTHROPIC_BASE_URL"),
        "e2bURL": endpoints.get("E2B_API_URL"),
        "kubectl": str(system.control_plane.binaries.kubectl),
        "credentials": {pod.name: str(pod.credentials) for pod in (system.webhook, *system.operators)},
        "logs": {name: str(path) for name, path in system.logs.items()},
    }
    if system.simulated:
        described |= {"anthropicAPIKey": system.api_key, "agentID": system.agent_id}
    return described


def _explain(system: LocalSystem, console: Console) -> None:
    kubectl = "kubectl" if shutil.which("kubectl") else str(system.control_plane.binaries.kubectl)
    where = "the simulators" if system.simulated else "the real clouds"
    console.print(f"\n[bold green]Ready[/], with {where}. Ctrl-C stops everything and cleans up.\n")
    console.print(f"  Webhook      {system.webhook_url}")
    console.print(f"  Health       {system.base_url}/health")
    console.print(f"  Environment  {system.clouds.environment_id}")
    console.print(f"  Logs         {system.folder}/*.log\n")
    console.print("In another terminal:\n")
    console.print(f"  export KUBECONFIG={shlex.quote(str(system.kubeconfig))}", markup=False)
    console.print(f"  {shlex.quote(kubectl)} get managedsessions --watch", markup=False)
    if system.simulated:
        console.print(f"  {_message_command(system)}\n", markup=False)
    else:
        console.print(
            "\nThen create a session in this environment and send it a message, in the Claude Console or "
            "with the SDK. The operator polls the work queue, so you need no public address.\n"
        )


def _message_command(system: LocalSystem) -> str:
    """Return a line of shell that creates a session, sends the smoke test's message and prints the events."""
    session = json.dumps({"agent": system.agent_id, "environment_id": system.clouds.environment_id})
    text = {"type": "text", "text": "Use bash to echo webhook-smoke-ok. Answer only with that text."}
    message = json.dumps({"events": [{"type": "user.message", "content": [text]}]})
    url = f"{system.clouds.environment['ANTHROPIC_BASE_URL']}/v1/sessions"
    curl = f"curl -sS -H 'x-api-key: {system.api_key}' -H 'content-type: application/json'"
    return (
        f"""S=$({curl} {url} -d '{session}' | grep -o 'sesn_[A-Za-z0-9]*' | head -1); """
        f"""{curl} {url}/$S/events -d '{message}' >/dev/null; """
        f"""{curl} -N {url}/$S/events/stream"""
    )
