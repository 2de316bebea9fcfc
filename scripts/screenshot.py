"""Take the README's picture: the page of a bundle, asked about a synthetic figure.

python scripts/screenshot.py vitruvian-demo/vit/artifacts docs/images/page.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from vitruvian.bundle import open_bundle
from vitruvian.data import synthetic
from vitruvian.inference.server import Server

FIGURE, SEED, SIZE = 9, 77, 480
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main(address: str, picture: Path) -> None:
    """Serve a bundle, give its page a figure that training never saw, and keep what it shows."""
    server = Server(open_bundle(address)).start()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        asked = Path(folder) / "tree.png"
        Image.fromarray(synthetic.picture(synthetic.figure(FIGURE, SEED), SIZE)).save(asked)
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 720})
        page.goto(server.address)
        page.locator("input[type=file]").set_input_files(asked)
        page.wait_for_timeout(2000)
        page.screenshot(path=picture)
        browser.close()
    server.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
