"""The web page as people use it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, FilePayload, Page, expect

from tests.bundles import heatmaps, make_bundle, npy, picture
from vitruvian.inference.server import Server

MANY = tuple(f"pose_{number:02}" for number in range(20))
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)), dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name));
  const target = document.getElementById("drop");
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: dropped, bubbles: true, cancelable: true }));
}"""
STILL = """async () => {
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
  await Promise.all(document.getAnimations().map((animation) => animation.finished));
}"""

Open = Callable[..., Page]


def _serving(folder: Path, kind: str, **more: object) -> Iterator[Server]:
    server = Server(make_bundle(folder, kind, **more)).start()  # type: ignore[arg-type]
    yield server
    server.stop()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _serving(tmp_path_factory.mktemp("image"), "image")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _serving(tmp_path_factory.mktemp("many"), "image", labels=MANY, name="<b>bold</b>")


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _serving(tmp_path_factory.mktemp("heatmap"), "heatmap")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open a server's page; at the end nothing may have gone wrong in it that the test didn't cause."""
    faults: list[str] = []
    contexts = []

    def listen(message: ConsoleMessage) -> None:
        # The browser itself reports requests that weren't answered with success.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            faults.append(message.text)

    def open_page(server: Server, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("console", listen)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: _at_home(request.url, server, faults))
        page.goto(server.address)
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
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def file(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "", "buffer": content}


def widths(page: Page) -> list[float]:
    """Return how wide each bar is, once it stands still."""
    page.evaluate(STILL)
    fills = page.locator(".bars .fill").all()
    return [fill.evaluate("element => element.getBoundingClientRect().width") for fill in fills]


def test_the_head_tells_what_serves(images: Server, visit: Open) -> None:
    page = visit(images)
    expect(page).to_have_title("yoga · Vitruvian")
    expect(page.locator("h1")).to_have_text("yoga")
    expect(page.locator("#version")).to_have_text("v1")
    expect(page.locator("#numbers")).to_contain_text("93.1%")
    expect(page.locator(".classes li")).to_have_text(["red", "green", "blue"])


def test_a_dropped_picture_shows_its_bars_best_first(images: Server, visit: Open) -> None:
    page = visit(images)
    drop(page, "pose.png", picture("blue"))
    expect(page.locator(".verdict h2")).to_have_text("blue")
    expect(page.locator(".verdict strong")).to_have_text(re.compile(r"^\d+\.\d%$"))
    expect(page.locator(".took")).to_have_text(re.compile(r"answered in \d+ ms · version v1"))
    expect(page.locator(".bars li")).to_have_count(3)
    assert page.locator(".bars .label").first.inner_text() == "blue"
    shares = [float(text.rstrip("%")) for text in page.locator(".bars .percent").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    track = page.locator(".bars .track").first.evaluate("element => element.getBoundingClientRect().width")
    for width, share in zip(widths(page), shares, strict=True):
        assert width == pytest.approx(track * share / 100, abs=2)
    preview = page.locator("#preview img")
    expect(preview).to_have_attribute("alt", "pose.png")
    assert preview.evaluate("element => element.naturalWidth") == 120


def test_a_pasted_picture_is_classified(images: Server, visit: Open) -> None:
    page = visit(images)
    paste = DROP.replace('"dragenter", "dragover", "drop"', '"paste"').replace(
        "new DragEvent(kind, { dataTransfer", "new ClipboardEvent(kind, { clipboardData"
    )
    page.evaluate(paste, ["image.png", base64.b64encode(picture("green")).decode()])
    expect(page.locator(".verdict h2")).to_have_text("green")


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4"])
def test_a_heatmap_is_drawn_and_classified(maps: Server, visit: Open, kind: str) -> None:
    page = visit(maps)
    drop(page, "pose.npy", npy(heatmaps(1).astype(kind)))
    expect(page.locator(".verdict h2")).to_have_text("green")
    canvas = page.locator("#preview canvas")
    expect(canvas).to_be_visible()
    # Bright where a joint is (the left hip, high in this figure), dark in a corner.
    row, column = 33, 27
    look = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
    pixels = [canvas.evaluate(look, [14 * at[1], 14 * at[0] + 20]) for at in ((row, column), (62, 46))]
    assert sum(pixels[0]) > sum(pixels[1]) + 100


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("broken.jpg", b"junk", "broken.jpg: is not an image"), ("empty.png", b"", "empty.png: the file is empty")],
)
def test_a_broken_file_shows_what_is_wrong(images: Server, visit: Open, name: str, content: bytes, said: str) -> None:
    page = visit(images)
    drop(page, name, content)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The input can't be used")
    expect(alert).to_contain_text(said)
    expect(alert).to_contain_text(re.compile("request [0-9a-f]{32}"))
    drop(page, "good.png", picture("red"))
    expect(page.locator(".verdict h2")).to_have_text("red")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_heatmaps_of_another_shape_show_the_shape(maps: Server, visit: Open) -> None:
    page = visit(maps)
    drop(page, "small.npy", npy(np.zeros((17, 3, 3), np.float32)))
    expect(page.get_by_role("alert")).to_contain_text("has shape [17, 3, 3] instead of")
    expect(page.locator("#preview")).to_contain_text("No preview of this file")


def test_several_files_make_a_list_to_go_back_in(images: Server, visit: Open) -> None:
    page = visit(images)
    files = {"red.png": picture("red"), "green.png": picture("green"), "broken.png": b"junk"}
    page.locator("#file").set_input_files([file(name, content) for name, content in files.items()])
    entries = page.locator("#strip button")
    expect(entries).to_have_count(3)
    expect(entries.nth(0)).to_contain_text("red")
    expect(entries.nth(1)).to_contain_text("green")
    expect(entries.nth(2)).to_contain_text("can't be used")
    expect(page.locator(".verdict h2")).to_have_text("red")
    entries.nth(1).click()
    expect(page.locator(".verdict h2")).to_have_text("green")
    expect(entries.nth(1)).to_have_attribute("aria-current", "true")
    entries.nth(2).click()
    expect(page.get_by_role("alert")).to_be_visible()


def test_the_keyboard_is_enough(images: Server, visit: Open) -> None:
    page = visit(images)
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Tab")
        expect(page.locator("#file")).to_be_focused()
        assert page.locator("#drop").evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        page.keyboard.press("Enter")
    chooser.value.set_files(file("a.png", picture("green")))
    expect(page.locator(".verdict h2")).to_have_text("green")
    expect(page.locator("#said")).to_have_text(re.compile(r"^green, \d"))
    page.keyboard.press("Tab")
    expect(page.locator("summary")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#gates")).to_be_visible()


def test_gates_lineage_and_a_command_are_in_the_details(images: Server, visit: Open) -> None:
    page = visit(images)
    page.get_by_text("About this model").click()
    expect(page.locator("#gates tr").first).to_have_text(re.compile("✓ passed.*accuracy >= 0.79.*0.9312"))
    expect(page.locator("#lineage")).to_contain_text("sha256:5b1f0c9a")
    expect(page.locator("#measured")).to_contain_text("0.2145")
    expect(page.locator("#curl")).to_have_text(f"curl -F file=@photo.jpg {images.address}/predict/image")


def test_names_from_the_bundle_are_text_and_many_classes_fold(many: Server, visit: Open) -> None:
    page = visit(many)
    expect(page.locator("h1")).to_have_text("<b>bold</b>")
    drop(page, "<img src=x onerror=alert(1)>.png", picture("red"))
    expect(page.locator(".bars li")).to_have_count(10)
    page.get_by_role("button", name="Show all 20 classes").click()
    expect(page.locator(".bars li")).to_have_count(20)
    assert page.locator("#preview img[src=x]").count() == 0


def brightness(page: Page) -> float:
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


def test_the_page_is_dark_for_those_who_want_it(images: Server, visit: Open) -> None:
    assert brightness(visit(images, color_scheme="light")) > 200
    dark = visit(images, color_scheme="dark")
    assert brightness(dark) < 60
    drop(dark, "a.png", picture("red"))
    expect(dark.locator(".verdict h2")).to_have_text("red")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_is_wider_than_the_window(many: Server, visit: Open, width: int) -> None:
    page = visit(many, viewport={"width": width, "height": 800})
    drop(page, f"{'a-very-long-name' * 12}.png", picture("red"))
    expect(page.locator(".bars li")).to_have_count(10)
    page.get_by_text("About this model").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_server_that_is_gone_is_said_so(tmp_path: Path, visit: Open) -> None:
    server = Server(make_bundle(tmp_path)).start()
    page = visit(server)
    server.stop()
    page.route("**/predict/image", lambda route: route.abort("connectionrefused"))
    drop(page, "a.png", picture("red"))
    expect(page.get_by_role("alert")).to_contain_text("can't be reached")
