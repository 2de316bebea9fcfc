"""Opening a server's page and handing it files, as people do."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, FilePayload, Page, expect

from vitruvian.bundle import Bundle
from vitruvian.inference.server import Extras, Server

DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)), dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name));
  const target = document.getElementById("drop");
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""
PASTE = DROP.replace('"dragenter", "dragover", "drop"', '"paste"').replace(
    "new DragEvent(kind, { dataTransfer", "new ClipboardEvent(kind, { clipboardData"
)
STILL = """async () => {
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
  await Promise.all(document.getAnimations().map((animation) => animation.finished));
}"""

Open = Callable[..., Page]


@contextmanager
def running(bundle: Bundle, **extras: Any) -> Iterator[Server]:
    """Serve a bundle."""
    server = Server(bundle, extras=Extras(**extras)).start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def visiting(browser: Browser) -> Iterator[Open]:
    """Open servers' pages; at the end nothing may have gone wrong in them that the test didn't cause."""
    faults: list[str] = []
    contexts = []

    def listen(message: ConsoleMessage) -> None:
        # The browser itself reports requests that weren't answered with success.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def open_page(server: Server, path: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", listen)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: _at_home(request.url, server, faults))
        page.goto(f"{server.address}/{path}")
        if not path or path.startswith("#"):
            expect(page.locator("#state")).to_have_text("ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _at_home(url: str, server: Server, faults: list[str]) -> None:
    if not url.startswith((server.address, "blob:", "data:")):
        faults.append(f"asked {url}")


def drop(page: Page, name: str, content: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def file(name: str, content: bytes) -> FilePayload:
    """Return a file as a chooser takes it."""
    return {"name": name, "mimeType": "", "buffer": content}
