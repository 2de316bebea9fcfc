"""What two versions, other labels, keys and bundles' own documents are on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.browser.pages import Open, drop, file, running
from tests.bundles import make_bundle, picture
from tests.versions import make_other
from vitruvian.inference.access.guard import Guard
from vitruvian.inference.access.keys import digest_of, new_key
from vitruvian.inference.server import Server


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(make_bundle(tmp_path_factory.mktemp("clip"), clip=True)) as server:
        yield server


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    other = make_other(tmp_path_factory.mktemp("other"), measured=True)
    bundle = make_bundle(tmp_path_factory.mktemp("one"), measured=True)
    with running(bundle, challenger=str(other.folder)) as server:
        yield server


# Labels of one's own


def test_own_labels_are_asked_about_in_own_sentences(clip: Server, visit: Open) -> None:
    page = visit(clip)
    expect(page.get_by_label("Labels, one on each line")).to_have_value("red\ngreen\nblue")
    expect(page.get_by_label("Sentences they stand in")).to_have_value("a photo of {}.")
    drop(page, "a.png", picture("yellow"))
    expect(page.locator(".verdict h2")).to_have_text(re.compile("red|green"))
    page.get_by_label("Labels, one on each line").fill("yellow\n\n  white \nblue")
    page.get_by_label("Sentences they stand in").fill("a {}")
    page.get_by_role("button", name="Ask about these").click()
    expect(page.locator(".verdict h2")).to_have_text("yellow")
    expect(page.locator(".bars li")).to_have_count(3)
    page.get_by_text("The same from a terminal").click()
    said = """-F 'labels=["yellow","white","blue"]' -F 'templates=["a {}"]'"""
    expect(page.locator("#curl")).to_contain_text(said)
    page.get_by_role("button", name="The model's own").click()
    expect(page.locator(".verdict h2")).to_have_text(re.compile("red|green"))
    expect(page.locator("#curl")).not_to_contain_text("labels")


def test_labels_that_cant_be_asked_about_are_said_where_they_stand(clip: Server, visit: Open) -> None:
    page = visit(clip)
    labels, templates = page.get_by_label("Labels, one on each line"), page.get_by_label("Sentences they stand in")
    alert = page.locator("#zero-problem")
    for field, text, said in (
        (templates, "a photo", "needs {} once"),
        (labels, "", "at least one label"),
        (labels, "red\nred", "there twice"),
    ):
        before = field.input_value()
        field.fill(text)
        page.get_by_role("button", name="Ask about these").click()
        expect(alert).to_contain_text(said)
        expect(field).to_be_focused()
        expect(field).to_have_attribute("aria-invalid", "true")
        field.fill(before)


def test_a_model_without_a_text_tower_offers_no_labels(images: Server, visit: Open) -> None:
    page = visit(images)
    expect(page.locator("#zero")).to_be_hidden()
    expect(page.locator("#comparing")).to_be_hidden()


# Two versions


def compare(page: Page) -> None:
    box = page.get_by_role("checkbox", name=re.compile("^Compare with the challenger v2"))
    expect(box).to_be_enabled(timeout=15000)
    box.check()


def test_both_versions_are_shown_beside_each_other(two: Server, visit: Open) -> None:
    page = visit(two)
    compare(page)
    contents = {"red.png": picture("red"), "green.png": picture("green"), "blue.png": picture("blue")}
    page.locator("#file").set_input_files([file(name, content) for name, content in contents.items()])
    expect(page.locator(".answer h2")).to_have_text("Both say red")
    versions = page.locator(".version")
    expect(versions).to_have_count(2)
    expect(versions.nth(0)).to_contain_text(re.compile("Champion.*v1.*red.*predicted in [\\d.]+ ms", re.DOTALL))
    expect(versions.nth(1)).to_contain_text(re.compile("Challenger.*v2.*red.*predicted in [\\d.]+ ms", re.DOTALL))
    # The same order in both, so that rows can be read across.
    first, second = (version.locator(".label").all_inner_texts() for version in versions.all())
    assert first == second
    entries = page.locator("#strip button")
    expect(entries.locator("b")).to_have_text(["red", "green / blue", "blue"])
    boxes = [version.bounding_box() for version in versions.all()]
    assert boxes[0] and boxes[1] and boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    page.get_by_role("checkbox", name=re.compile("^Compare")).uncheck()
    expect(page.locator(".took")).to_contain_text("answered in")


def test_versions_that_differ_are_said_to(two: Server, visit: Open) -> None:
    page = visit(two)
    compare(page)
    drop(page, "a.png", picture("green"))
    expect(page.locator(".answer h2")).to_have_text("They differ: green, blue")
    expect(page.locator("#said")).to_have_text("champion green, challenger blue")
    expect(page.locator(".answer .took").first).to_have_text(re.compile(r"Largest difference of a probability: \d"))


def test_the_cameras_frames_are_answered_by_both(two: Server, visit: Open) -> None:
    page = visit(two)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator(".bars li")).to_have_count(3)
    compare(page)
    expect(page.locator(".version")).to_have_count(2)
    expect(page.locator("#rate")).to_contain_text("frames/s")
    page.get_by_role("checkbox", name=re.compile("^Compare")).uncheck()
    expect(page.locator(".version")).to_have_count(0)
    expect(page.locator(".bars li")).to_have_count(3)


def test_a_challenger_that_cant_be_served_says_why(tmp_path: Path, visit: Open) -> None:
    bundle = make_bundle(tmp_path / "one")
    wrong = make_other(tmp_path / "wrong", golden_shift=0.5)
    with running(bundle, challenger=str(wrong.folder)) as server:
        page = visit(server)
        box = page.locator("#comparing")
        expect(box).to_contain_text("the golden example's answer differs", timeout=15000)
        expect(page.locator("#compare")).to_be_disabled()


# What was measured


def test_the_evaluation_draws_what_was_taken_for_what(images: Server, visit: Open) -> None:
    page = visit(images, "#evaluation")
    expect(page.locator(".tiles")).to_contain_text(re.compile(r"93\.3%.*95 % confidence", re.DOTALL))
    rows = page.locator("#confusion tbody tr")
    assert [row.locator("td").all_inner_texts() for row in rows.all()] == [
        ["18", "2", ""],
        ["", "18", "2"],
        ["", "", "20"],
    ]
    right, wrong, none = (rows.nth(0).locator("td").nth(at) for at in range(3))
    colors = [cell.evaluate("cell => getComputedStyle(cell).backgroundColor") for cell in (right, wrong, none)]
    assert len(set(colors)) == 3
    assert wrong.get_attribute("title") == "2 of red taken for green, 10.0%"
    expect(page.locator(".pairs li").first).to_have_text("red taken for green 2 times, 10.0% of its examples")
    expect(page.locator("#gates tr").first).to_have_text(re.compile("accuracy >= 0.79.*✓ passed.*0.9312"))
    expect(page.locator("#measured")).to_contain_text("0.2145")


def test_classes_are_sorted_by_what_is_asked(images: Server, visit: Open) -> None:
    page = visit(images, "#evaluation")
    table = page.locator("#per-class")
    expect(table.locator("tbody th")).to_have_text(["red", "green", "blue"])
    expect(table.locator("tbody tr").first).to_have_text(re.compile("red.*100.0%.*90.0%.*94.7%.*20"))
    for expected, order in (("descending", "blue"), ("ascending", "red")):
        page.get_by_role("button", name="recall").click()
        expect(page.get_by_role("columnheader", name="recall")).to_have_attribute("aria-sort", expected)
        expect(table.locator("tbody th").first).to_have_text(order)


def test_the_model_card_is_read_as_it_is_meant(images: Server, visit: Open) -> None:
    page = visit(images, "#card")
    card = page.locator("#card-here")
    expect(card.get_by_role("heading", name="yoga", exact=True)).to_be_visible()
    expect(card.get_by_role("heading", name="Gates", exact=True)).to_be_visible()
    expect(card.get_by_role("columnheader", name="metric")).to_be_visible()
    expect(card.get_by_role("row", name=re.compile("accuracy 0.931"))).to_be_visible()
    expect(card.locator("pre").first).to_contain_text("vitruvian serve .")
    expect(card).not_to_contain_text("pipeline_tag")
    expect(page.locator("#lineage")).to_contain_text("sha256:5b1f0c9a")


def test_the_challengers_evaluation_and_card_can_be_seen(two: Server, visit: Open) -> None:
    page = visit(two, "#card")
    expect(page.locator("#card-here")).to_contain_text("Version v1")
    page.get_by_label("Of the").select_option("challenger")
    expect(page.locator("#card-here")).to_contain_text("Version v2")
    page.get_by_role("link", name="Evaluation").click()
    expect(page.locator("#confusion")).to_be_visible()
    expect(page.locator("#gates")).to_be_hidden()


def test_a_bundle_without_its_evaluation_says_so(clip: Server, visit: Open) -> None:
    page = visit(clip, "#evaluation")
    expect(page.locator("#evaluation-here")).to_contain_text("version 'v1' was published without its evaluation")
    expect(page.locator("#gates")).to_be_visible()


# Access


def test_a_server_that_wants_a_key_is_given_one(tmp_path: Path, visit: Open) -> None:
    key = new_key()[0]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [{"name": "me", "sha256": digest_of(key)}]}))
    (tmp_path / "access.yaml").write_text("{keys: keys.yaml, public: [health, page]}")
    with running(make_bundle(tmp_path), guard=lambda: Guard.open(tmp_path / "access.yaml")) as server:
        page = visit(server)
        drop(page, "a.png", picture("blue"))
        expect(page.get_by_role("alert")).to_contain_text("Nobody is known to ask this")
        page.get_by_label("This server wants a key").fill(key)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator(".verdict h2")).to_have_text("blue")
        expect(page.locator("#access")).to_be_hidden()
        stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert key not in stored


# The API's page


def test_the_apis_page_is_read_without_scripts(images: Server, visit: Open) -> None:
    page = visit(images, "docs", java_script_enabled=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("yoga, served by Vitruvian")
    page.get_by_text("/predict/image").click()
    route = page.locator("details[open]")
    expect(route).to_contain_text("multipart/form-data")
    expect(route).to_contain_text("X-Vitruvian-Track")
    route.get_by_role("link", name="Prediction").click()
    expect(page).to_have_url(re.compile("#Prediction$"))
    expect(page.locator("#Prediction")).to_contain_text("confidence")
