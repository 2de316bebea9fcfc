"""Live pictures from a camera: Chromium's, which shows a moving test picture."""

from __future__ import annotations

import re
import time

from playwright.sync_api import Page, Route, expect

from tests.browser.pages import Open, drop
from tests.bundles import picture
from vitruvian.inference.server import Server


def start(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#video")).to_be_visible()
    expect(page.locator(".verdict h2")).to_have_text(re.compile("red|green|blue"))


def playing(page: Page) -> bool:
    """Return whether the page holds the camera."""
    return bool(page.evaluate("Boolean(document.getElementById('video').srcObject?.active)"))


def test_the_camera_is_answered_live_with_its_frame_rate(images: Server, visit: Open) -> None:
    page = visit(images)
    start(page)
    expect(page.locator("#rate")).to_have_text(re.compile(r"^\d+\.\d frames/s$"))
    # The dots of the latency's plot are one for each frame.
    expect(page.locator("#latency-plot .dot").nth(8)).to_be_attached()
    assert page.locator("#strip button").count() == 0
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.locator("#live")).to_be_hidden()
    expect(page.locator("#invite")).to_be_visible()
    assert not playing(page)


def test_a_live_answer_is_read_out_only_when_it_is_another(images: Server, visit: Open) -> None:
    page = visit(images)
    page.evaluate(
        """() => {
          window.heard = [];
          const said = document.getElementById("said");
          new MutationObserver(() => heard.push(said.textContent)).observe(said, { childList: true });
        }"""
    )
    start(page)
    # Many frames of the same green picture.
    expect(page.locator("#latency-plot .dot").nth(12)).to_be_attached()
    heard = page.evaluate("heard")
    assert heard[0] == "The camera is on"
    assert 1 <= heard.count("green") <= 2


def test_a_frame_is_sent_only_when_the_last_answer_is_there(images: Server, visit: Open) -> None:
    page = visit(images)
    waiting, most, sent = [0], [0], [0]

    def slow(route: Route) -> None:
        waiting[0] += 1
        sent[0] += 1
        most[0] = max(most[0], waiting[0])
        response = route.fetch()
        # Frames come ten times as often.
        time.sleep(0.2)
        waiting[0] -= 1
        route.fulfill(response=response)

    page.route("**/predict/image", slow)
    start(page)
    while sent[0] < 5:
        page.wait_for_timeout(50)
    assert most[0] == 1
    page.get_by_role("button", name="Stop the camera").click()
    page.wait_for_timeout(600)
    before = sent[0]
    page.wait_for_timeout(300)
    assert sent[0] == before


def test_a_frame_that_is_kept_joins_the_files(images: Server, visit: Open) -> None:
    page = visit(images)
    drop(page, "red.png", picture("red"))
    expect(page.locator(".verdict h2")).to_have_text("red")
    start(page)
    page.get_by_role("button", name="Keep this frame").click()
    entries = page.locator("#strip button")
    expect(entries).to_have_count(2)
    expect(entries.nth(1)).to_contain_text(re.compile(r"camera \d\d-\d\d-\d\d\.jpg"))
    expect(entries.nth(1)).to_have_attribute("aria-current", "true")
    assert page.locator("#preview img").evaluate("element => element.naturalWidth") == 640
    assert not playing(page)


def test_the_camera_is_given_back_when_another_part_is_looked_at(images: Server, visit: Open) -> None:
    page = visit(images)
    start(page)
    page.get_by_role("link", name="Evaluation").click()
    expect(page.locator("#per-class")).to_be_visible()
    assert not playing(page)


def test_a_server_that_is_busy_is_asked_again_when_it_said(images: Server, visit: Open) -> None:
    page = visit(images)
    asked: list[float] = []

    def busy(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            route.continue_()
            return
        body = '{"title": "Too many predictions are waiting", "detail": "come again"}'
        route.fulfill(status=429, headers={"Retry-After": "2"}, content_type="application/problem+json", body=body)

    page.route("**/predict/image", busy)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("alert")).to_contain_text("Too many predictions")
    expect(page.locator(".verdict h2")).to_be_visible()
    assert asked[1] - asked[0] >= 2


def test_a_camera_that_cant_be_had_is_said_so(images: Server, visit: Open) -> None:
    page = visit(images)
    # Chromium's camera can't be unplugged: the page is made to ask for one that isn't there.
    page.evaluate(
        """() => {
          const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = () => real({ video: { deviceId: { exact: "unplugged" } } });
        }"""
    )
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("alert")).to_contain_text("The camera can't be used")
    expect(page.locator("#live")).to_be_hidden()
    drop(page, "red.png", picture("red"))
    expect(page.locator(".verdict h2")).to_have_text("red")
