"""Takes the screenshots of the README from a run's folder: python -m tests.browser.pictures RUN FOLDER."""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.eye import Eye
from tests.support.running import running

SCREENSHOTS = {
    "overview": ("overview", "", "dark", 860),
    "posterior": ("posterior", "", "light", 980),
    "samples": ("samples", "?colour=gain", "light", 760),
}
"""Name -> view, its parameters, theme, and height in px; the width is 1280 px."""


def take(run: Path, folder: Path) -> None:
    """Write dashboard-NAME.png for each of SCREENSHOTS."""
    chromium = shutil.which("chromium")
    assert chromium, "no chromium on PATH: apt-get install chromium"
    with running("--run", str(run)) as server, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (view, query, theme, height) in SCREENSHOTS.items():
            looking = Eye(browser.new_page(viewport={"width": 1280, "height": height}, color_scheme=theme), server.url)
            looking.open(view, query)
            if view == "samples":
                looking.page.locator(".tokens").first.focus()
                looking.page.keyboard.press("ArrowRight")
            picture = Image.open(BytesIO(looking.page.screenshot())).quantize(192)
            picture.save(folder / f"dashboard-{name}.png", optimize=True)
            assert looking.wrong == [], looking.wrong
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
