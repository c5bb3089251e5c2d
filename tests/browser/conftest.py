"""Pages in headless Chromium. The tests are skipped if it is not installed."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.eye import Eye
from tests.browser.stages import Stages

SHOTS = "TRIBUTARY_SCREENSHOTS"
"""Environment variable: a folder for screenshots of every page under test."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    with sync_playwright() as started:
        # No sandbox: CI runs as root, and the tests open only our own pages on loopback.
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    dashboards = Stages(tmp_path_factory.mktemp("stages"))
    yield dashboards
    dashboards.close()


@pytest.fixture(scope="session")
def shots() -> Path | None:
    """The folder for screenshots, or None."""
    if not os.environ.get(SHOTS):
        return None
    folder = Path(os.environ[SHOTS])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def eye(browser: Browser, shots: Path | None) -> Iterator[Callable[[str], Eye]]:
    """Opens pages: eye(url)."""
    contexts = []

    def open_page(url: str) -> Eye:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        contexts.append(context)
        return Eye(context.new_page(), url, shots)

    yield open_page
    for context in contexts:
        context.close()
