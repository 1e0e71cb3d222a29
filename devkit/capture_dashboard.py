"""Takes the pictures of the dashboard for README and docs: `python devkit/capture_dashboard.py`.

Runs the whole system with the simulators, plays sessions of two classes, and writes
`docs/images/dashboard-*.png`. It needs Chromium, as the tests of the dashboard do (`.ci/browser`).
"""
# ruff: noqa: INP001 - a script, not a part of the package

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from managed_session_api import names
from managed_session_cli.conversation import Conversation
from managed_session_devkit.system.dashboard import dashboard_pod
from managed_session_devkit.system.local_system import LocalSystem

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.async_api import Page  # noqa: E402

from tests.dashboard.browser import chromium  # noqa: E402

IMAGES = ROOT / "docs" / "images"
TOKEN = "token-for-the-pictures"  # noqa: S105 - of a system that ends with this script
SIZE = {"width": 1280, "height": 720}
SLOTS = 6
MOST_KILOBYTES = 200
SETTINGS = {
    "max_idle_seconds": "1",
    "max_active_sandboxes": str(SLOTS),
    "sandbox_price_per_second": "0.00003",
}
CLASSES: dict[str, dict[str, Any]] = {
    "interactive": {
        "precedence": 10,
        "selector": {"sessionMetadata": {"matchLabels": {"tier": "interactive"}}},
        "limits": {
            "weight": 3,
            "guaranteedSlots": 2,
            "maxActiveSandboxes": 5,
            "maxActiveSecondsPerDay": 36000,
        },
    },
    "batch": {"limits": {"weight": 1, "maxActiveSandboxes": 4, "maxActiveSecondsPerDay": 7200}},
}
"""The second one is the default, for all sessions that the first one does not select."""


async def play(system: LocalSystem, stack: AsyncExitStack) -> str:
    """Play sessions until some are idle, some run and some wait. Return the name of one with many turns."""
    for name, spec in CLASSES.items():
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.CLASS_KIND,
            "metadata": {"name": name},
            "spec": spec,
        }
        await system.kubectl("create", "--filename=-", input=json.dumps(body))

    async def begin(tier: str) -> Conversation:
        session = await system.user.beta.sessions.create(
            agent=system.agent_id, environment_id=system.clouds.environment_id, metadata={"tier": tier}
        )
        return await stack.enter_async_context(Conversation.join(system.user, session.id))

    sessions = [await begin("interactive" if number % 3 else "batch") for number in range(14)]
    for each in sessions:
        await each.say("Run: echo ready")
    name = names.resource_name(sessions[1].session_id)
    for seconds in (4, 1, 6, 2, 3):
        await system.kubectl(
            "wait", "--for=jsonpath={.status.phase}=Idle", "--timeout=60s", f"{names.PLURAL}/{name}"
        )
        await sessions[1].say(f"Run: sleep {seconds}")
    busy = [asyncio.create_task(each.say("Run: sleep 90")) for each in sessions[1:11]]
    stack.callback(lambda: [task.cancel() for task in busy])
    return name


async def capture(page: Page, url: str, name: str) -> None:
    """Write the pictures of one look."""
    scheme = "dark" if await page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
    await page.goto(url)
    await page.get_by_label("Token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator("#live[data-state=live]").wait_for()
    await page.locator("tbody a").first.wait_for()
    await page.screenshot(path=IMAGES / f"dashboard-{scheme}.png")
    if scheme == "light":
        await page.goto(f"{url}#/sessions/{name}")
        await page.get_by_role("table", name="Turns").wait_for()
        await page.screenshot(path=IMAGES / "dashboard-session.png")


async def main() -> None:
    """Play, take the pictures, and end everything."""
    system = LocalSystem(operator_settings=SETTINGS, delete_sessions_at_exit=False, report=print)
    async with system, AsyncExitStack() as stack:
        name = await play(system, stack)
        pod, url = await dashboard_pod(
            system.control_plane,
            system.namespace,
            system.system_namespace,
            system.folder,
            settings={"max_active_sandboxes": str(SLOTS)},
        )
        pod.set_credential("dashboard-token", TOKEN)
        stack.push_async_callback(pod.process.stop)
        await pod.start()
        await pod.wait_ready()
        browser = await stack.enter_async_context(chromium())
        for scheme in ("light", "dark"):
            context = await browser.new_context(viewport=SIZE, color_scheme=scheme)
            await capture(await context.new_page(), url, name)
            await context.close()
    for path in sorted(IMAGES.glob("dashboard-*.png")):
        kilobytes = path.stat().st_size // 1000
        print(path.relative_to(ROOT), f"{kilobytes} kB")
        if kilobytes > MOST_KILOBYTES:
            sys.exit(f"{path.name} is too large for the repository")


if __name__ == "__main__":
    asyncio.run(main())
