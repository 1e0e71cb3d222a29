"""A headless Chromium for tests, which must be there: a page that nobody has looked at is not tested."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from .site import Site

_PROGRAMS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
)
SECONDS = 30.0
expect.set_options(timeout=1000 * SECONDS)


def program() -> str:
    """The browser's path: CHROMIUM, or the first one that is installed."""
    candidates = filter(None, (os.environ.get("CHROMIUM"), *map(shutil.which, _PROGRAMS)))
    found = next(candidates, None)
    assert found, "no Chromium: run `.ci/browser`, install one yourself, or name it in CHROMIUM"
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser without a window."""
    async with async_playwright() as playwright:
        # As root, Chromium cannot use its sandbox. It loads nothing but our own page here.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=program(), args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """One viewer's page.

    Attributes:
        page: the page in the browser.
        problems: errors of scripts, violations of the content security policy, and dialogs.
        requests: addresses that the browser has requested.
    """

    def __init__(self, page: Page, context: BrowserContext) -> None:
        self.page = page
        self.context = context
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    def _note(self, kind: str, text: str) -> None:
        # A lost connection is logged by the browser itself.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.problems.append(text)

    async def sign_in(self, site: Site, path: str = "") -> None:
        """Sign in by the form, and wait until the page is up to date."""
        await self.page.goto(site.url)
        await self.page.get_by_label("Token").fill(await site.token())
        await self.page.get_by_role("button", name="Sign in").click()
        await self.live()
        if path:
            await self.page.goto(f"{site.url}{path}")

    async def live(self) -> None:
        """Wait until the page receives updates."""
        await self.page.locator("#live[data-state=live]").wait_for()


@asynccontextmanager
async def visit(browser: Browser, **options: Any) -> AsyncIterator[Visit]:
    """A page with a storage of its own; no script in it fails."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    try:
        visitor = Visit(await context.new_page(), context)
        yield visitor
        assert visitor.problems == []
    finally:
        await context.close()
