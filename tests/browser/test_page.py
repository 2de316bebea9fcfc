"""The web page as people use it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import FileChooser, Page, TimeoutError, expect

from tests.browser.pages import PASTE, STILL, Open, drop, file, running
from tests.bundles import heatmaps, make_bundle, npy, picture
from vitruvian.inference.server import Server

MANY = tuple(f"pose_{number:02}" for number in range(20))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    bundle = make_bundle(tmp_path_factory.mktemp("many"), labels=MANY, name="<b>bold</b>", measured=True)
    with running(bundle) as server:
        yield server


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(make_bundle(tmp_path_factory.mktemp("heatmap"), "heatmap")) as server:
        yield server


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
    page.evaluate(PASTE, ["image.png", base64.b64encode(picture("green")).decode()])
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


def focused(page: Page) -> str:
    """Return what the focused element is called: its id, or its text."""
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))


def chosen_by_key(page: Page) -> FileChooser:
    """Press Enter on the input of files until Chromium, which lets a key go by when it is busy, asks for some."""
    for _ in range(10):
        with suppress(TimeoutError):
            with page.expect_file_chooser(timeout=3000) as chooser:
                page.keyboard.press("Enter")
            return chooser.value
    raise AssertionError("no files were asked for")


def test_the_keyboard_is_enough(images: Server, visit: Open) -> None:
    page = visit(images)
    order = []
    for _ in range(8):
        page.keyboard.press("Tab")
        order.append(focused(page))
    assert order == ["Skip to the picture", "Try it", "Evaluation", "Model card", "API", "theme", "file", "camera"]
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert focused(page) == "file"
    assert page.locator("#drop").evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    chosen_by_key(page).set_files([file("a.png", picture("green")), file("b.png", picture("red"))])
    expect(page.locator(".verdict h2")).to_have_text("green")
    expect(page.locator("#said")).to_have_text(re.compile(r"^green, \d"))
    expect(page.locator("#strip button").nth(1)).to_contain_text("red")
    page.locator("#strip button").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".verdict h2")).to_have_text("red")
    expect(page.locator("#said")).to_have_text(re.compile(r"^red, \d"))
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#curl")).to_be_visible()


UNNAMED = """() => {
  const named = (element) => element.getAttribute("aria-label") || element.getAttribute("aria-labelledby")
    || element.labels?.length || (!/NAV|SECTION/.test(element.tagName) && element.textContent.trim());
  const used = "a, button, input, select, textarea, summary, [role=img], [role=region], nav, section";
  return [...document.querySelectorAll(used)].filter((element) => !named(element)).map((element) => element.outerHTML);
}"""


def test_everything_that_can_be_used_has_a_name_for_screen_readers(many: Server, visit: Open) -> None:
    page = visit(many)
    drop(page, "a.png", picture("red"))
    expect(page.locator(".bars li")).to_have_count(10)
    for view in ("evaluation", "card", "try"):
        page.locator(f".views a[href='#{view}']").click()
        expect(page.locator(f"#view-{view}")).to_be_focused()
        assert page.evaluate(UNNAMED) == []
    levels = page.evaluate("[...document.querySelectorAll('h1, h2')].map((heading) => heading.tagName)")
    assert levels.count("H1") == 1 and "H2" in levels


def test_each_part_of_the_page_has_an_address(images: Server, visit: Open) -> None:
    page = visit(images, "#evaluation")
    expect(page.locator("#per-class")).to_be_visible()
    expect(page.locator("#file")).to_be_hidden()
    page.get_by_role("link", name="Model card").click()
    expect(page.locator("#card-here")).to_be_visible()
    page.go_back()
    expect(page.locator("#per-class")).to_be_visible()
    # A picture that is dropped anywhere is answered where answers are.
    drop(page, "a.png", picture("blue"))
    expect(page.locator(".verdict h2")).to_have_text("blue")


def test_the_terminals_command_asks_what_the_page_asks(images: Server, visit: Open) -> None:
    page = visit(images)
    page.get_by_text("The same from a terminal").click()
    expect(page.locator("#curl")).to_have_text(f"curl -F file=@photo.jpg {images.address}/predict/image")


def test_names_from_the_bundle_are_text_and_many_classes_fold(many: Server, visit: Open) -> None:
    page = visit(many)
    expect(page.locator("h1")).to_have_text("<b>bold</b>")
    drop(page, "<img src=x onerror=alert(1)>.png", picture("red"))
    expect(page.locator(".bars li")).to_have_count(10)
    for choice, count in (("the best 3", 3), ("all 20 classes", 20)):
        page.get_by_label("Show").select_option(choice)
        expect(page.locator(".bars li")).to_have_count(count)
    assert page.locator("#preview img[src=x]").count() == 0


def brightness(page: Page) -> float:
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


def test_the_page_is_dark_for_those_who_want_it(images: Server, visit: Open) -> None:
    assert brightness(visit(images, color_scheme="light")) > 200
    page = visit(images, color_scheme="dark")
    assert brightness(page) < 60
    button = page.get_by_role("button", name="Dark colours")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    assert brightness(page) > 200
    page.reload()
    assert brightness(page) > 200
    page.goto(f"{images.address}/docs")
    assert brightness(page) > 200


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colors) => rgb(colors).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const poor = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode()); ) {
    const element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, option, script, .unseen, .skip")) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const [a, b] = [light([...behind, getComputedStyle(element).color]), light(behind)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${text.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(images: Server, visit: Open, scheme: str) -> None:
    page = visit(images, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    drop(page, "a.png", picture("red"))
    expect(page.locator(".bars li")).to_have_count(3)
    assert page.evaluate(CONTRAST) == []
    drop(page, "b.png", b"junk")
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    for view in ("#evaluation", "#card"):
        page.locator(f".views a[href='{view}']").click()
        expect(page.locator("#per-class" if view == "#evaluation" else "#card-here h2")).to_be_visible()
        assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_is_wider_than_the_window(many: Server, visit: Open, width: int) -> None:
    page = visit(many, viewport={"width": width, "height": 800})
    drop(page, f"{'a-very-long-name' * 12}.png", picture("red"))
    expect(page.locator(".bars li")).to_have_count(10)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for view, shown in (("evaluation", "#per-class"), ("card", "#card-here h2")):
        page.locator(f".views a[href='#{view}']").click()
        expect(page.locator(shown)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(f"{many.address}/docs")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_server_that_is_gone_is_said_so(tmp_path: Path, visit: Open) -> None:
    server = Server(make_bundle(tmp_path)).start()
    page = visit(server)
    server.stop()
    page.route("**/predict/image", lambda route: route.abort("connectionrefused"))
    drop(page, "a.png", picture("red"))
    expect(page.get_by_role("alert")).to_contain_text("can't be reached")


def test_latency_is_drawn_a_point_for_each_request(images: Server, visit: Open) -> None:
    page = visit(images)
    expect(page.locator("#latency")).to_be_hidden()
    contents = [picture("red"), b"junk", picture("green")]
    page.locator("#file").set_input_files([file(f"{at}.png", content) for at, content in enumerate(contents)])
    dots = page.locator("#latency-plot .dot")
    expect(dots).to_have_count(3)
    expect(page.locator("#latency-plot .dot.failed")).to_have_count(1)
    expect(page.locator("#latency-text")).to_have_text(
        re.compile(r"^3 requests · median [\d.]+ ms · 95th percentile [\d.]+ ms · 1 failed$")
    )
    assert page.get_by_role("img", name=re.compile("^Latency of 3 requests, median")).count() == 1
    box = page.locator("#latency-plot").bounding_box()
    assert box is not None
    for dot in dots.all():
        point = dot.bounding_box()
        assert point is not None and box["y"] <= point["y"] <= box["y"] + box["height"]


def test_one_keypoints_heatmap_can_be_looked_at_alone(maps: Server, visit: Open) -> None:
    page = visit(maps)
    expect(page.get_by_role("button", name="Use the camera")).to_be_hidden()
    drop(page, "pose.npy", npy(heatmaps(1)))
    expect(page.get_by_role("img", name="The heatmaps of 17 keypoints, summed")).to_be_visible()
    page.get_by_label("Keypoints all").select_option("left hip")
    canvas = page.get_by_role("img", name="The heatmap of the left hip")
    look = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
    hip, ankle = (sum(canvas.evaluate(look, [14 * x, 14 * y + 20])) for y, x in ((33, 27), (58, 36)))
    assert hip > ankle + 100
