"""The page in a real browser: what it shows, by keyboard and to screen readers, and that it trusts nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from managed_session_devkit.control_plane import ControlPlane
from playwright.async_api import Browser, Page, expect

from .browser import chromium, visit
from .site import Site, ago, dashboard, ready

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


async def rows_of(page: Page) -> list[str]:
    """The sessions in sight, from top to bottom."""
    return await page.get_by_role("grid", name="Sessions").locator("tbody a").all_inner_texts()


async def accessible(page: Page) -> None:
    found: Any = await Axe().run(page, options=RULES)
    assert found.violations_count == 0, found.generate_report()


async def test_sign_in_by_keyboard_and_its_error(site: Site, browser: Browser) -> None:
    async with visit(browser) as visitor:
        page = visitor.page
        await page.goto(site.url)
        await expect(page.get_by_label("Token")).to_be_focused()
        await page.keyboard.type("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("does not accept this token")
        await accessible(page)
        await page.keyboard.type(await site.token())
        await page.keyboard.press("Enter")
        await visitor.live()
        assert "managed-session-dashboard-viewer" in await page.locator("#user").inner_text()


async def test_sessions_are_shown_updated_searched_and_sorted(site: Site, browser: Browser) -> None:
    marks = [f"sesn_01View{number}" for number in range(3)]
    names = [
        await site.make(mark, {"phase": "Idle", "turns": turns, **ready("Idle")}, agentID="agent_of_view")
        for mark, turns in zip(marks, (2, 9, 5), strict=True)
    ]
    async with visit(browser) as visitor:
        page = visitor.page
        await visitor.sign_in(site)
        await page.get_by_role("searchbox").fill("AGENT_OF_view")
        await expect(page.locator("#count")).to_contain_text("3 of ")
        await page.get_by_role("button", name="Turns").click()
        assert await rows_of(page) == [marks[1], marks[2], marks[0]]
        await expect(page.get_by_role("columnheader", name="Turns")).to_have_attribute(
            "aria-sort", "descending"
        )
        waiting = ready("AwaitingCapacity", "Queue position 4.", status="False")
        await site.sessions.patch_status(
            {"phase": "Pending", "work": {"id": "w", "offeredAt": ago(100)}, **waiting}, names[2]
        )
        row = page.get_by_role("row").filter(has_text=marks[2])
        await expect(row).to_contain_text("AwaitingCapacity")
        await expect(row).to_contain_text("1m ")
        await expect(page.locator("#tiles")).to_contain_text("oldest")
        await page.get_by_role("group", name="Phase").get_by_role("button", name="Pending").click()
        await expect(page.locator("#count")).to_contain_text("1 of ")
        await page.get_by_role("button", name="Clear filters").click()
        await site.kubectl("delete", "managedsession", names[0])
        await page.get_by_role("searchbox").fill("sesn_01View")
        await expect(page.locator("#count")).to_contain_text("2 of ")
        assert {url.split("/")[2] for url in visitor.requests} == {site.url.split("/")[2]}


async def test_rows_are_reached_by_arrow_keys_and_opened_by_enter(site: Site, browser: Browser) -> None:
    for number in range(4):
        await site.make(f"sesn_01Keys{number}", {"phase": "Idle", "turns": number, **ready("Idle")})
    async with visit(browser) as visitor:
        page = visitor.page
        await visitor.sign_in(site)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.get_by_role("searchbox").fill("sesn_01Keys")
        await page.get_by_role("button", name="Turns").click()
        await page.get_by_role("button", name="Last active").focus()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="sesn_01Keys3")).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowDown")
        await expect(page.get_by_role("link", name="sesn_01Keys1")).to_be_focused()
        await page.keyboard.press("End")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="sesn_01Keys0", level=1)).to_be_focused()
        assert await page.title() == "sesn_01Keys0 · managed-sessions"
        await page.go_back()
        await expect(page.get_by_role("searchbox")).to_have_value("sesn_01Keys")


async def test_hostile_texts_are_shown_as_they_are_and_run_nothing(site: Site, browser: Browser) -> None:
    status = {"phase": "Failed", "turns": 1, "work": {"id": HOSTILE, "offeredAt": ago(9)},
              "sandbox": {"id": HOSTILE, "state": "Paused", "templateID": HOSTILE},
              **ready("SessionStuck", HOSTILE, status="False")}  # fmt: skip
    name = await site.make("sesn_01Hostile", status)
    await site.post_event(name, "Claimed", HOSTILE)
    await site.post_event(name, "WorkerFinished", HOSTILE, kind="Warning")
    async with visit(browser) as visitor:
        page = visitor.page
        await visitor.sign_in(site)
        row = page.get_by_role("row").filter(has_text="sesn_01Hostile")
        await expect(row).to_contain_text(HOSTILE)
        await row.get_by_role("link").click()
        await expect(page.get_by_role("list").filter(has_text="Claimed")).to_contain_text(HOSTILE)
        for tag in ("img[src=x]", "main script"):
            assert await page.locator(tag).count() == 0
        for path in (f"#/sessions/{HOSTILE}", f"#/?class={HOSTILE}", "#/sessions/%"):
            await page.goto(site.url + path)
        # The policy stands even if a script of ours were fooled.
        refused = await page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return '' } catch (e) { return e.name } }"
        )
        assert refused == "TypeError"
        visitor.problems[:] = [each for each in visitor.problems if "TrustedHTML" not in each]


async def test_session_has_bars_for_its_turns_and_says_what_to_do(site: Site, browser: Browser) -> None:
    status = {"phase": "Failed", "turns": 1, **ready("TemplateNotFound", "No such template.", status="False")}
    name = await site.make("sesn_01Bars", status)
    async with visit(browser) as visitor:
        page = visitor.page
        await visitor.sign_in(site, f"#/sessions/{name}")
        await expect(page.get_by_role("region", name="TemplateNotFound")).to_contain_text("What to do:")
        for reason in ("Claimed", "SandboxResumed", "WorkerStarted", "WorkerFinished"):
            await site.post_event(name, reason, f"About {reason}.")
        turn = page.get_by_role("table", name="Turns").get_by_role("row").nth(1)
        await expect(turn).to_contain_text("About WorkerFinished.")
        assert await turn.locator(".bar").count() == 1
        await page.goto(f"{site.url}#/sessions/none")
        await expect(page.get_by_text("This session does not exist")).to_be_visible()


async def test_classes_and_environments_lead_to_their_sessions(site: Site, browser: Browser) -> None:
    await site.classes.create(
        {"precedence": 1, "limits": {"maxActiveSandboxes": 4, "maxActiveSecondsPerDay": 600}}, "gold"
    )
    status = {"phase": "Idle", "class": {"name": "gold", "uid": "u", "generation": 1}, **ready("Idle")}
    await site.make("sesn_01Gold", status)
    async with visit(browser) as visitor:
        page = visitor.page
        await visitor.sign_in(site)
        await page.get_by_role("link", name="Environments").click()
        await expect(page.get_by_role("heading", name="Environments")).to_be_focused()
        await expect(page.get_by_role("table", name="Environments").get_by_role("row")).to_have_count(2)
        await page.get_by_role("link", name="Classes").click()
        await expect(page.get_by_role("row").filter(has_text="gold")).to_contain_text("0 of 4")
        await page.get_by_role("link", name="gold").click()
        await expect(page.locator("#count")).to_contain_text("1 of ")
        assert await rows_of(page) == ["sesn_01Gold"]


@pytest.mark.parametrize(
    "look",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}],
    ids=["light", "dark", "small"],
)
async def test_every_view_is_accessible(site: Site, browser: Browser, look: dict[str, Any]) -> None:
    name = await site.make(
        f"sesn_01Axe{len(look)}{look.get('color_scheme', '')}",
        {"phase": "Failed", "turns": 1, **ready("SessionStuck", "Stuck.", status="False")},
    )
    await site.post_event(name, "WorkerStarted", "Started.")
    async with visit(browser, **look) as visitor:
        page = visitor.page
        await visitor.sign_in(site)
        for path in ("", f"#/sessions/{name}", "#/classes", "#/environments"):
            await page.goto(site.url + path)
            await expect(page.locator("main h1:visible, main h1.unseen").first).to_be_attached()
            await expect(page.get_by_text("Loading")).to_have_count(0)
            await accessible(page)
        width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0, "nothing has to be scrolled sideways"


async def test_lost_dashboard_is_shown_and_found_again(
    control_plane: ControlPlane, browser: Browser, tmp_path: Path
) -> None:
    async with dashboard(control_plane, tmp_path) as site, visit(browser) as visitor:
        page = visitor.page
        await visitor.sign_in(site)
        await expect(page.get_by_text("No sessions yet")).to_be_visible()
        site.pod.process.freeze()
        site.pod.process.thaw()
        await site.pod.process.stop()
        await expect(page.locator("#live[data-state=lost]")).to_be_visible()
        await site.pod.start()
        # Sign-ins are in the memory of the process that has ended.
        await expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
        await page.get_by_role("link", name="Sign in").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        visitor.problems.clear()
