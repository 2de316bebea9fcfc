"""Debian's Chromium, driven without a window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, expect, sync_playwright

from tests.browser.pages import Open, running, visiting
from tests.bundles import make_bundle
from vitruvian.inference.server import Server

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that shows a moving test picture, and is lent without asking.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


# A machine that does much else takes its time.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the whole session: Playwright keeps an event loop running in this thread, where other tests start theirs.
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is absent: apt-get install chromium")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        except Error as e:
            pytest.fail(f"{CHROMIUM} doesn't start: {e}")
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    with visiting(browser) as visit:
        yield visit


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(make_bundle(tmp_path_factory.mktemp("image"), measured=True)) as server:
        yield server
