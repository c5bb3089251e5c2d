"""A browser page that records problems: console errors, exceptions, dialogs, requests to other hosts."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Request, expect

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
AXE_RUN = """() => axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], resultTypes: ["violations"]}).then(
    ({violations}) => violations.filter((one) => ["serious", "critical"].includes(one.impact))
        .flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html.slice(0, 160)} ${node.failureSummary}`)))"""
ALL_DRAWN = """() => [...document.querySelectorAll('.plot .canvas:not([hidden])')].every(
    (one) => !one.clientWidth || one.querySelector('.uplot'))"""
WIDTHS = {390: 844, 1280: 900}
"""Width of a window -> its height, px."""
THEMES = ("light", "dark")


class Eye:
    """One page of one dashboard."""

    def __init__(self, page: Page, url: str, shots: Path | None = None) -> None:
        self.page, self.url, self._shots = page, url, shots
        self.wrong: list[str] = []
        self.excused = re.compile(r"(?!)")
        """Console errors that a state causes by itself, such as the browser's message about a 401."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"exception: {error}"))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self._request)

    def open(self, view: str, query: str = "") -> None:
        """Load the page, open a view and wait until it is loaded."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}#/{view}{query}")
        self.settled()

    def go(self, view: str, query: str = "") -> None:
        """Open a view without loading the page again."""
        self.page.evaluate("hash => { location.hash = hash }", f"#/{view}{query}")
        expect(self.page.locator("main h1").first).to_be_visible()
        self.settled()

    def settled(self) -> None:
        """Wait until every part of the view shows numbers or a sentence."""
        expect(self.page.locator("main :is(h1, form)").first).to_be_visible(timeout=15_000)
        expect(self.page.locator("main .status.loading:visible")).to_have_count(0, timeout=15_000)

    def look(self, theme: str, width: int) -> None:
        """Set the system theme and the width of the window."""
        self.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        self.page.set_viewport_size({"width": width, "height": WIDTHS[width]})

    def unroll(self) -> None:
        """Make the window as high as the page and wait until every plot is drawn; plots outside the window are not."""
        height = int(self.page.evaluate("() => document.documentElement.scrollHeight"))
        self.page.set_viewport_size({"width": self.page.viewport_size["width"], "height": height})  # type: ignore[index]
        self.page.wait_for_function(ALL_DRAWN)

    def shoot(self, name: str) -> None:
        """Save a screenshot of the whole page."""
        if self._shots:
            self.page.screenshot(path=self._shots / f"{name}.jpg", type="jpeg", quality=60, full_page=True)

    def serious(self) -> list[str]:
        """The violations that axe-core rates as serious or critical."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE)
        violations: list[str] = self.page.evaluate(AXE_RUN)
        return violations

    def too_wide(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth"))

    def text(self) -> str:
        """All visible text."""
        return self.page.locator("body").inner_text()

    def value(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(f"() => {script}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not self.excused.search(message.text):
            self.wrong.append(f"console {message.type}: {message.text} {message.location.get('url', '')}")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != urlsplit(self.url).netloc:
            self.wrong.append(f"request to another host: {request.url}")
