"""The page's files as they are served, and the description of all routes."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import validate
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.bundles import make_bundle, picture
from tests.serving import problem, serving
from tests.versions import both, make_other
from vitruvian.bundle import Bundle, open_bundle
from vitruvian.inference.page import page_files
from vitruvian.inference.predictor import Predictor

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "vitruvian" / "inference" / "page"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    one = make_bundle(tmp_path_factory.mktemp("one"), measured=True)
    two = make_other(tmp_path_factory.mktemp("two"), measured=True)
    with both(Predictor.open(one), Predictor.open(two)) as client:
        yield client


# Files


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("main.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_is_kept_by_browsers_and_asked_about_each_time(client: TestClient, name: str, kind: str) -> None:
    response = client.get(f"/page/{name}")
    assert response.headers["content-type"] == kind
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    for tag in (response.headers["etag"], f'"another", W/{response.headers["etag"]}'):
        again = client.get(f"/page/{name}", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/page/{name}", headers={"If-None-Match": '"another"'}).content == response.content


@pytest.mark.parametrize("name", ["__init__.py", "index.html", "nothing.js", "..%2Fapp.py", "%2e%2e%2fapp.py"])
def test_nothing_but_the_pages_files_is_served(client: TestClient, name: str) -> None:
    problem(client.get(f"/page/{name}"), 404)


def test_the_page_and_all_it_loads_are_this_servers() -> None:
    files = page_files()
    loaded = set()
    for name, file in files.items():
        text = file.content.decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|localhost)|@import|[\"'(]//", text), name
        loaded |= set(re.findall(r'(?:src|href)="page/([\w.]+)"|from "\./([\w.]+)"', text))
    assert {one or other for one, other in loaded} == set(files) - {"index.html", "docs.html"}


def test_no_style_or_script_stands_within_the_page() -> None:
    for name in ("index.html", "docs.html"):
        text = page_files()[name].content.decode()
        assert not re.search(r"<style|<script>|\sstyle=|\son\w+=", text), name


def test_an_installed_wheel_has_every_file_of_the_page() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vitruvian"]
    packed = {path for pattern in patterns for path in (ROOT / "vitruvian").glob(pattern)}
    assert {FOLDER / name for name in page_files()} <= packed


# What bundles tell of themselves


def test_the_card_and_the_evaluation_are_the_versions_that_is_asked_for(client: TestClient) -> None:
    card = client.get("/card")
    assert card.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "Version `v1`" in card.text
    assert "Version `v2`" in client.get("/card", headers={"X-Vitruvian-Track": "canary"}).text
    measured = client.get("/evaluation").json()
    assert measured["confusion"] == [[18, 2, 0], [0, 18, 2], [0, 0, 20]]
    assert [each["label"] for each in measured["classes"]] == ["red", "green", "blue"]


def test_what_a_bundle_lacks_is_not_found(tmp_path: Path) -> None:
    with serving(Predictor.open(make_bundle(tmp_path))) as client:
        assert "without its model card" in problem(client.get("/card"), 404)["detail"]
        assert "without its evaluation" in problem(client.get("/evaluation"), 404)["detail"]


def test_nothing_that_the_checksums_do_not_name_is_told(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path).folder
    (tmp_path / "secret").write_text("a secret")
    (folder / "README.md").symlink_to(tmp_path / "secret")
    (folder / "report").mkdir()
    os.mkfifo(folder / "report" / "metrics.json")
    with serving(Predictor.open(open_bundle(tmp_path / "store"))) as client:
        problem(client.get("/card"), 404)
        problem(client.get("/evaluation"), 404)


def test_what_is_told_is_what_was_checked_when_the_bundle_was_opened(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, measured=True)
    (bundle.folder / "README.md").write_text("another")
    (bundle.folder / "report" / "metrics.json").unlink()
    with serving(Predictor.open(bundle)) as client:
        assert "Version `v1`" in client.get("/card").text
        assert client.get("/evaluation").json()["confusion"]


# The description of all routes


def test_every_route_is_described_and_no_other(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    routed = {
        (route.path, method.lower())
        for route in client.app.routes  # type: ignore[attr-defined]
        if isinstance(route, Route) and route.path != "/page/{name}"
        for method in (route.methods or set()) - {"HEAD"}
    }
    told = {(path, method) for path, item in document["paths"].items() for method in item if method != "parameters"}
    assert told == routed


def test_metrics_on_a_port_of_their_own_are_not_described(tmp_path: Path) -> None:
    with serving(Predictor.open(make_bundle(tmp_path)), admin=False) as client:
        assert "/metrics" not in client.get("/openapi.json").json()["paths"]
        assert "/metrics" not in client.get("/docs").text


@pytest.mark.parametrize(
    "path", ["/predict/image", "/predict/batch", "/compare", "/evaluation", "/limits", "/", "/page/none"]
)
def test_answers_look_as_they_are_described(client: TestClient, path: str) -> None:
    document = client.get("/openapi.json").json()
    posted = {"files": {"files" if path == "/predict/batch" else "file": ("a.png", picture("green"))}}
    method = "POST" if path.startswith(("/predict", "/compare")) else "GET"
    answer = client.request(method, path, **(posted if method == "POST" else {}))  # type: ignore[arg-type]
    if path == "/page/none":
        schema = {"$ref": "#/components/schemas/Problem"}
    else:
        told = document["paths"][path][method.lower()]["responses"]["200"]["content"]
        schema = told["application/json"]["schema"]
    Draft202012Validator(schema | {"components": document["components"]}).validate(answer.json())


def test_what_only_some_models_take_is_described_for_them(tmp_path: Path) -> None:
    def fields(bundle: Bundle) -> set[str]:
        with serving(Predictor.open(bundle)) as client:
            operation = client.get("/openapi.json").json()["paths"]["/predict/image"]["post"]
            return set(operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"])

    usual = {"file", "top_k", "precision"}
    assert fields(make_bundle(tmp_path / "image")) == usual
    assert fields(make_bundle(tmp_path / "heatmap", "heatmap")) == usual
    assert fields(make_bundle(tmp_path / "clip", clip=True)) == usual | {"labels", "templates"}


def test_names_from_a_bundle_are_text_in_the_reference(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, name="<b>bold</b>", labels=("<script>", "green", "blue"))
    with serving(Predictor.open(bundle)) as client:
        html = client.get("/docs").text
    assert "&lt;b&gt;bold" in html and "&lt;script&gt;" in html
    assert "<b>bold</b>" not in html and "<script>" not in html
