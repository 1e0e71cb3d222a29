"""`managed-sessions demo`: plays the smoke test of E2B's guide, and two sessions with classes."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
from managed_session_cli.conversation import Conversation, NoAnswerError
from managed_session_cli.errors import TemplateError
from rich.console import Console

from managed_session_devkit.control_plane import ControlPlaneBinaries, KubectlError, ProcessFailedError
from managed_session_devkit.demo.demo_log import CheckFailedError, DemoLog
from managed_session_devkit.demo.outside_services import outside_services
from managed_session_devkit.demo.prepared_session import SHOP_METADATA, apply_shop, play_shop
from managed_session_devkit.demo.resource_watch import ResourceWatch
from managed_session_devkit.demo.session_class import (
    CLASS_METADATA,
    CLASS_NAME,
    MANIFEST,
    apply_class,
    show_class,
)
from managed_session_devkit.demo.user import begin, send
from managed_session_devkit.system.local_system import LocalSystem

SMOKE_MESSAGE = "Use bash to echo webhook-smoke-ok. Answer only with that text."
SMOKE_ANSWER = "webhook-smoke-ok"
FILE = "/mnt/session/first-turn.txt"
WORKER_LOG = "/opt/anthropic-managed-agents/worker.log"

_SETTLE_SECONDS = 30.0
_SETTINGS = {"max_idle_seconds": "1"}
"""By default a worker waits ten seconds for the next message before its sandbox is paused."""

_SMOKE_SCRIPT: list[dict[str, Any]] = [
    {"tool": "bash", "input": {"command": f"echo {SMOKE_ANSWER} | tee {FILE}"}, "expect_error": False},
    {"say": "{result}"},
]
"""The simulated agent's script for the smoke test's message. It leaves a file for the second turn."""


async def run_demo(binaries: ControlPlaneBinaries, console: Console) -> bool:
    """Play the demo on its own local system and print it. Return whether all checks passed."""
    log = DemoLog(console)
    log.heading("Starting the system: control plane, simulators of Anthropic and E2B, webhook, operator")
    system = LocalSystem(
        binaries=binaries,
        register_webhook=False,
        operator_settings=_SETTINGS,
        e2b_settings={"egress_proxy": True},
        report=log.line,
    )
    starting = console.status("Starting, which takes a few seconds")
    starting.start()
    try:
        async with system:
            starting.stop()
            try:
                await _play(system, log)
            except (CheckFailedError, NoAnswerError, KubectlError, TimeoutError, httpx.HTTPError) as error:
                log.failed(str(error) or type(error).__name__, system.logs)
                return False
            log.heading("Stopping")
    except (ProcessFailedError, KubectlError, TemplateError) as error:
        log.failed(str(error), {})
        return False
    finally:
        starting.stop()
    log.succeeded()
    return True


async def _play(system: LocalSystem, log: DemoLog) -> None:
    health = await _register_webhook(system, log)
    await system.anthropic_admin.add_script("smoke", "Use bash to echo webhook-smoke-ok.*", _SMOKE_SCRIPT)
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(ResourceWatch.on(system, log.happened))
        following = asyncio.create_task(_follow_webhook(system, log))
        stack.callback(following.cancel)

        log.heading("Smoke test: a session and one message")
        first = await begin(system, log, stack, "E2B webhook smoke")
        answer = await send(log, first, SMOKE_MESSAGE)
        log.check("the agent answered with the text that bash printed", answer == SMOKE_ANSWER, answer)
        await _show_resources(system, log)

        log.heading("A class, and a second session that gets it, while the first one's sandbox gets paused")
        await apply_class(system, log, CLASS_NAME, MANIFEST)
        second = await begin(system, log, stack, "a session of team gold", CLASS_METADATA)
        await _second_session(system, log, watch, first, second)
        paused = await watch.until(
            lambda all_: all(each.phase == "Idle" and each.state == "Paused" for each in all_.values()),
            _SETTLE_SECONDS,
        )
        states = {each.id: each.state for each in await system.e2b_admin.sandboxes()}
        log.check(
            "both sessions are idle and their sandboxes paused",
            paused and set(states.values()) == {"paused"},
            json.dumps(states),
        )

        log.heading("Second turn of the first session, after the pause")
        sandbox = watch.of(first.session_id).sandbox
        found = await send(log, first, f"Run: cat {FILE}")
        log.check("the second turn finds the file of the first", found == SMOKE_ANSWER, found)
        resumed = await system.e2b_admin.sandbox(sandbox)
        log.check(
            "it ran in the same sandbox, resumed from its pause",
            watch.of(first.session_id).sandbox == sandbox and resumed.resumes >= 1,
            sandbox,
        )
        await _show_resources(system, log)
        await _healthy_run(system, log, health, first, watch)
        third = await _third_session(system, log, stack, watch)
        await _delete(system, log, watch, first, second, third)


async def _second_session(
    system: LocalSystem, log: DemoLog, watch: ResourceWatch, first: Conversation, second: Conversation
) -> None:
    printed = await send(log, second, f"Run: echo team: $TEAM; ls -A /mnt/session; cat {FILE} 2>&1")
    log.check(
        "the second session does not see the first one's file",
        "first-turn.txt: No such file" in printed and SMOKE_ANSWER not in printed,
        printed.replace("\n", " "),
    )
    one, other = watch.of(first.session_id), watch.of(second.session_id)
    log.check(
        "it has a sandbox of its own",
        bool(other.sandbox) and other.sandbox != one.sandbox,
        f"{one.sandbox} and {other.sandbox}",
    )
    await show_class(
        system, log, name=other.name, sandbox_id=other.sandbox, printed=printed, without_class=one.name
    )


async def _third_session(
    system: LocalSystem, log: DemoLog, stack: AsyncExitStack, watch: ResourceWatch
) -> Conversation:
    log.heading("A third session: a repository, a secret that it cannot read, a shell that goes on")
    outside = stack.enter_context(outside_services(system.folder / "outside"))
    await apply_shop(system, log, outside)
    third = await begin(system, log, stack, "a session of team shop", SHOP_METADATA)
    await play_shop(system, log, watch, third, outside)
    return third


async def _register_webhook(system: LocalSystem, log: DemoLog) -> dict[str, Any]:
    log.heading("Registering the webhook")
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        health = (await client.get(f"{system.base_url}/health")).json()
    log.check("/health is ok", health.get("ok") is True, json.dumps(health))
    status = await system.webhook_status()
    log.check("/webhook answers 503 without a signing key", status == httpx.codes.SERVICE_UNAVAILABLE)
    await system.add_signing_key()
    status = await system.webhook_status()
    log.check(
        "with the signing key, it refuses an unsigned event with 401, without a restart",
        status == httpx.codes.UNAUTHORIZED,
    )
    return dict(health)


async def _follow_webhook(system: LocalSystem, log: DemoLog) -> None:
    """Add the events that the webhook records to the timeline."""
    printed = 0
    while True:
        lines = await asyncio.to_thread(system.webhook.log.read_text, errors="replace")
        records = [json.loads(line) for line in lines.splitlines() if '"routing work"' in line]
        for record in records[printed:]:
            log.happened("webhook", f"{record.get('eventType')} recorded ({record.get('outcome')})")
        printed = len(records)
        await asyncio.sleep(0.05)


async def _show_resources(system: LocalSystem, log: DemoLog) -> None:
    log.output("kubectl get managedsessions", await system.kubectl("get", "managedsessions"))


async def _healthy_run(
    system: LocalSystem,
    log: DemoLog,
    health: dict[str, Any],
    conversation: Conversation,
    watch: ResourceWatch,
) -> None:
    log.heading("The five checks of E2B's guide for a healthy run")
    session_id = conversation.session_id
    sandbox_id = watch.of(session_id).sandbox
    log.check("/health returns ok: true", health.get("ok") is True)
    routing = _log_lines(system, "routing work", session_id)
    assigned = _log_lines(system, "assigned session", session_id)
    log.check(
        "the logs show `routing work` and `assigned session`",
        bool(routing and assigned),
        f"{len(routing)} and {len(assigned)} lines about {session_id}",
    )
    recorded = json.loads(
        await system.kubectl("get", "managedsession", watch.of(session_id).name, "--output=json")
    )
    assignment = recorded.get("status", {}).get("sandbox", {}).get("id")
    log.check(
        "the assignment of session to sandbox is recorded",
        recorded["spec"]["sessionID"] == session_id and assignment == sandbox_id,
        f"{session_id} → {assignment}",
    )
    sandbox = await system.e2b_admin.sandbox(sandbox_id)
    worker_log = await asyncio.to_thread(sandbox.path(WORKER_LOG).read_text, errors="replace")
    posted = [
        line for line in worker_log.splitlines() if "posted result" in line and "is_error=False" in line
    ]
    log.check(
        "worker.log shows that the tool ran and its result was posted",
        bool(posted),
        posted[0] if posted else "",
    )
    session = await system.user.beta.sessions.retrieve(session_id)
    log.check("the session is idle again", session.status == "idle", session.status)


def _log_lines(system: LocalSystem, message: str, session_id: str) -> list[str]:
    lines: list[str] = []
    for pod in (system.webhook, *system.operators):
        lines += pod.log.read_text(errors="replace").splitlines()
    return [line for line in lines if f'"{message}"' in line and session_id in line]


async def _delete(
    system: LocalSystem,
    log: DemoLog,
    watch: ResourceWatch,
    first: Conversation,
    second: Conversation,
    third: Conversation,
) -> None:
    log.heading("Deleting: two sessions at Anthropic, the second one's resource with kubectl")
    name = watch.of(second.session_id).name
    await system.user.beta.sessions.delete(first.session_id)
    await system.user.beta.sessions.delete(third.session_id)
    await system.kubectl("delete", "managedsession", name, "--timeout=30s")
    await system.user.beta.sessions.delete(second.session_id)
    gone = await watch.until(lambda resources: not resources, _SETTLE_SECONDS)
    log.check("all resources are gone", gone)
    left = await system.e2b_admin.sandboxes("running", "pausing", "paused")
    log.check("no sandbox is left", not left, f"{len(await system.e2b_admin.sandboxes('killed'))} killed")
