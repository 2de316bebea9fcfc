"""Two versions in one server: who answers, and what a challenger that fails can't harm."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom  # type: ignore[import-untyped]
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.bundles import LABELS, make_bundle, picture
from tests.serving import Held, b64, infer_binary, problem, sample, serving
from tests.versions import both, make_other, tracks, wait_until
from vitruvian.bundle import Bundle, open_bundle
from vitruvian.cli import app
from vitruvian.errors import BundleError, SpecError, VitruvianError
from vitruvian.inference.app import create_app
from vitruvian.inference.challenger import open_challenger
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.rules import Rules, challenger_settings, cookie, drawn, new_cookie
from vitruvian.inference.service import Settings

ALL, NONE = Rules(share=100), Rules()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_other(tmp_path_factory.mktemp("two"))


@pytest.fixture
def held(two: Bundle) -> Iterator[Held]:
    engine = Held(two)
    yield engine
    engine.go.set()


@pytest.fixture(scope="module", params=[NONE, ALL], ids=["share 0", "share 100"])
def client(request: pytest.FixtureRequest, one: Bundle, two: Bundle) -> Iterator[TestClient]:
    with both(Predictor.open(one), Predictor.open(two), request.param) as client:
        yield client


def ask(client: TestClient, **headers: str) -> Any:
    # A client of its own for each: cookies are sent by these headers only.
    client.cookies.clear()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/predict/image", content=picture("red"), headers=named)


# Who answers

BY_SHARE = None
ROUTES: list[tuple[dict[str, str], str | None]] = [
    ({}, BY_SHARE),
    ({"x_vitruvian_track": "canary"}, "canary"),
    ({"x_vitruvian_track": "stable"}, "stable"),
    ({"cookie": "vitruvian-track=canary"}, "canary"),
    ({"cookie": "vitruvian-track=stable"}, "stable"),
    ({"cookie": 'a=b; vitruvian-track="canary"; c=d'}, "canary"),
    ({"cookie": "x-vitruvian-track=canary"}, BY_SHARE),
    ({"cookie": "vitruvian-track=5f3a"}, BY_SHARE),
    ({"cookie": "vitruvian-track="}, BY_SHARE),
    ({"x_vitruvian_track": "stable", "cookie": "vitruvian-track=canary"}, "stable"),
    ({"x_vitruvian_track": "canary", "cookie": "vitruvian-track=stable"}, "canary"),
    ({"x_vitruvian_track": "canary", "x_vitruvian_key": "me"}, "canary"),
    ({"x_vitruvian_key": "me"}, BY_SHARE),
]


@pytest.mark.parametrize(("headers", "expected"), ROUTES)
def test_header_cookie_and_share_say_who_answers_in_this_order(
    client: TestClient, headers: dict[str, str], expected: str | None
) -> None:
    track = expected or ("canary" if tracks(client).rules.share else "stable")
    response = ask(client, **headers)
    answer = response.json()
    assert (answer["track"], answer["version"]) == (track, {"stable": "v1", "canary": "v2"}[track])
    assert response.headers["x-vitruvian-version"] == answer["version"]
    assert response.headers["x-vitruvian-track"] == track
    assert "x-vitruvian-fallback" not in response.headers
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("track", ["Canary", "", "v2", "stable, canary", "x" * 5000])
def test_a_track_that_isnt_one_is_refused(client: TestClient, track: str) -> None:
    problem(ask(client, x_vitruvian_track=track), 400)


def test_the_version_in_a_path_says_who_answers(client: TestClient) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(picture("red"))]}
    for version, track in (("v1", "stable"), ("v2", "canary")):
        path = f"/v2/models/yoga/versions/{version}"
        response = client.post(f"{path}/infer", json={"inputs": [tensor]}, headers={"x-vitruvian-track": "stable"})
        assert response.json()["model_version"] == version
        assert response.headers["x-vitruvian-version"] == version
        assert response.headers["x-vitruvian-track"] == track
        assert client.get(f"{path}/ready").json() == {"name": "yoga", "ready": True}
        assert client.get(path).json()["versions"] == ["v1", "v2"]
    unnamed = client.post("/v2/models/yoga/infer", json={"inputs": [tensor]}).json()
    assert unnamed["model_version"] == ("v2" if tracks(client).rules.share else "v1")
    assert client.get("/v2/models/yoga").json()["versions"] == ["v1", "v2"]
    indexed = client.post("/v2/repository/index").json()
    assert [(each["version"], each["state"]) for each in indexed] == [("v1", "READY"), ("v2", "READY")]
    assert "'v1' and 'v2'" in problem(client.get("/v2/models/yoga/versions/v3"), 404)["detail"]
    problem(client.post("/v2/models/yoga/versions/v3/infer", json={"inputs": [tensor]}), 404)


def test_every_way_in_is_shared(client: TestClient) -> None:
    expected = "canary" if tracks(client).rules.share else "stable"
    content = picture("red")
    for path, document in (
        ("/predict", {"image": b64(content)}),
        ("/predict/batch", {"images": [b64(content)]}),
        ("/v1/models/yoga:predict", {"instances": [{"b64": b64(content)}]}),
    ):
        assert client.post(path, json=document).headers["x-vitruvian-track"] == expected


def test_requests_count_for_who_answers_them(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two)) as client:
        for track, times in (("stable", 3), ("canary", 2)):
            for _ in range(times):
                ask(client, x_vitruvian_track=track)
        text = client.get("/metrics").text
        for track, version, times in (("stable", "v1", 3), ("canary", "v2", 2)):
            mine = {"classifier": "yoga", "version": version, "track": track}
            assert sample(text, "vitruvian_requests_total", route="/predict/image", code="200", **mine) == times
            assert sample(text, "vitruvian_predictions_total", **mine, **{"class": "red"}) == times
            assert sample(text, "vitruvian_requests_in_flight", **mine) == (track == "stable")
            assert sample(text, "vitruvian_bundle_info", **mine) == 1
        assert sample(text, "vitruvian_challenger_ready", version="v1") == 1
        # A process has one readiness: the champion's.
        assert [line for line in text.splitlines() if line.startswith("vitruvian_ready{")] == [
            'vitruvian_ready{classifier="yoga",track="stable",version="v1"} 1.0'
        ]


def test_without_a_challenger_who_asks_for_it_is_told_and_an_old_cookie_harms_nobody(one: Bundle) -> None:
    with serving(Predictor.open(one)) as client:
        assert ask(client).json()["track"] == "stable"
        assert ask(client, x_vitruvian_track="stable").headers["x-vitruvian-version"] == "v1"
        assert ask(client, cookie="vitruvian-track=canary").json()["version"] == "v1"
        problem(ask(client, x_vitruvian_track="canary"), 404)
        problem(client.post("/compare", content=picture("red")), 404)
        told = client.get("/tracks").json()
        assert list(told["tracks"]) == ["stable"]
        assert told["agreement"] is None
        assert "vitruvian_shadow" not in client.get("/metrics").text


def test_a_server_that_is_a_canary_as_a_whole_answers_who_asks_for_one(one: Bundle) -> None:
    with serving(Predictor.open(one), Settings(track="canary")) as client:
        assert ask(client, x_vitruvian_track="canary").json()["track"] == "canary"
        problem(ask(client, x_vitruvian_track="stable"), 404)
    with pytest.raises(VitruvianError, match="no challenger beside it"):
        create_app(Predictor.open(one), Settings(track="canary"), challenger=lambda: Predictor.open(one))


# Shares

KEYS = st.binary(min_size=1, max_size=200)
SHARES = st.floats(0, 100)


@given(KEYS, KEYS, SHARES, SHARES)
def test_a_key_stays_where_it_is_and_a_larger_share_takes_nobody_back(
    key: bytes, salt: bytes, share: float, other: float
) -> None:
    assert drawn(key, salt, share) == drawn(key, salt, share)
    if drawn(key, salt, min(share, other)):
        assert drawn(key, salt, max(share, other))
    assert drawn(key, salt, 100)
    assert not drawn(key, salt, 0)


@given(st.integers(0, 10**6), st.sampled_from([0.5, 1, 5, 10, 33.3, 50, 90]), st.booleans())
def test_the_share_of_the_keys_and_of_chance_is_as_said(seed: int, share: float, keyed: bool) -> None:
    n = 2000
    count = sum(drawn(f"{seed}-{at}".encode() if keyed else None, b"v2", share) for at in range(n))
    # One in ten million is outside.
    low, high = binom.interval(1 - 1e-7, n, share / 100)
    assert low <= count <= high


@given(KEYS, KEYS)
def test_each_challenger_is_tried_on_others(one: bytes, two: bytes) -> None:
    keys = [str(at).encode() for at in range(200)]
    first, second = ([drawn(key, salt, 50) for key in keys] for salt in (b"1" + one, b"2" + two))
    assert 0.2 < sum(a == b for a, b in zip(first, second, strict=True)) / 200 < 0.8


def test_a_key_is_a_header_a_cookie_or_who_is_known(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two), Rules(share=50)) as client:
        deciding = tracks(client)
        keys = [f"key-{at}" for at in range(60)]

        def taken(state: dict[str, Any]) -> str:
            # A request's end does this.
            service, _ = deciding.take(state, 1.0)
            service.metrics.in_flight.dec()
            deciding.stable.metrics.in_flight.inc()
            return service.settings.track

        by_header = [taken({"headers": {b"x-vitruvian-key": key.encode()}}) for key in keys]
        by_cookie = [taken({"headers": {b"cookie": f"vitruvian-track={key}".encode()}}) for key in keys]
        by_identity = [taken({"headers": {}, "identity": key}) for key in keys]
        assert by_header == by_cookie == by_identity
        assert {*by_header} == {"stable", "canary"}
        over_http = [ask(client, x_vitruvian_key=key).json()["track"] for key in keys]
        assert over_http == by_header
        mixed = [
            taken({"headers": {b"x-vitruvian-key": key.encode(), b"cookie": b"vitruvian-track=x"}, "identity": "y"})
            for key in keys
        ]
        assert mixed == by_header


def test_a_cookie_keeps_a_browser_with_one_version_only_where_that_is_wanted(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two), Rules(share=50, sticky_cookie=True)) as client:
        seen = set()
        for _ in range(30):
            first = ask(client)
            assert "HttpOnly" in first.headers["set-cookie"]
            assert "SameSite=Lax" in first.headers["set-cookie"]
            key = first.cookies["vitruvian-track"]
            again = ask(client, cookie=f"vitruvian-track={key}")
            assert again.json()["track"] == first.json()["track"]
            assert "set-cookie" not in again.headers
            seen.add((first.json()["track"], len(key)))
        assert {track for track, _ in seen} == {"stable", "canary"}
        for headers in ({"x_vitruvian_track": "canary"}, {"x_vitruvian_key": "me"}):
            assert "set-cookie" not in ask(client, **headers).headers


def test_a_new_cookie_is_read_as_it_was_set() -> None:
    key, value = new_cookie()
    assert cookie({b"cookie": b"a=b; " + value.split(b";")[0]}) == key
    assert new_cookie()[0] != key


# A challenger that isn't there, or can't


def test_a_challenger_that_isnt_ready_is_answered_for_only_where_nobody_asked_for_it(one: Bundle, held: Held) -> None:
    with both(Predictor.open(one), Predictor(held.bundle, held), ALL, state="starting") as client:
        response = ask(client)
        assert (response.json()["version"], response.headers["x-vitruvian-fallback"]) == ("v1", "not-ready")
        assert response.headers["x-vitruvian-track"] == "stable"
        assert ask(client, x_vitruvian_track="stable").headers.get("x-vitruvian-fallback") is None
        refused = ask(client, x_vitruvian_track="canary")
        assert "starting" in problem(refused, 503)["detail"]
        assert refused.headers["x-vitruvian-version"] == "v2"
        problem(client.get("/v2/models/yoga/versions/v2/ready"), 503)
        problem(client.post("/v2/models/yoga/versions/v2/infer", json={}), 503)
        problem(client.post("/compare", content=picture("red")), 503)
        assert client.get("/v2/health/ready").status_code == 200
        told = client.get("/tracks").json()
        assert told["tracks"]["canary"]["state"] == "starting"
        assert told["fallbacks"] == {"not-ready": 1}
        text = client.get("/metrics").text
        assert sample(text, "vitruvian_challenger_ready") == 0
        assert sample(text, "vitruvian_fallbacks_total", reason="not-ready", version="v1") == 1
        assert sample(text, "vitruvian_requests_total", code="503", route="/predict/image", version="v2") == 1
        held.go.set()
        wait_until(lambda: tracks(client).state == "ready", "it isn't ready")
        assert ask(client).json()["version"] == "v2"


def test_a_challenger_loads_while_the_champion_answers(one: Bundle, two: Bundle) -> None:
    go = threading.Event()

    def load() -> Predictor:
        assert go.wait(30)
        return Predictor.open(two)

    with both(Predictor.open(one), load, ALL, state="loading") as client:
        assert client.get("/v2/health/ready").status_code == 200
        assert ask(client).headers["x-vitruvian-fallback"] == "not-ready"
        problem(ask(client, x_vitruvian_track="canary"), 404)
        problem(client.get("/v2/models/yoga/versions/v2"), 404)
        assert client.get("/tracks").json()["tracks"]["canary"] == {
            "version": None,
            "state": "loading",
            "reason": None,
        }
        go.set()
        wait_until(lambda: tracks(client).state == "ready", "it isn't ready")
        assert ask(client).json()["version"] == "v2"


def test_a_mistyped_challenger_ends_the_start_with_one_line(one: Bundle, tmp_path: Path) -> None:
    nothing = tmp_path / "nope"
    failed = CliRunner().invoke(app, ["serve", str(one.folder), "--challenger", str(nothing)]).exception
    assert isinstance(failed, SpecError)
    assert str(failed) == f"--challenger: there is no folder '{nothing}'; check the address"


@pytest.mark.parametrize("fault", ["missing", "golden", "input", "name", "surprise"])
def test_a_challenger_that_cant_be_served_leaves_the_champion_serving_and_says_why(
    fault: str, one: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Predictor:
        if fault == "missing":
            return open_challenger(str(tmp_path / "nothing"), one, Settings(), ALL)
        if fault == "surprise":
            raise ZeroDivisionError("surprise")
        if fault == "golden":
            make_other(tmp_path, golden_shift=0.5)
        elif fault == "input":
            make_bundle(tmp_path, "heatmap", version="v2")
        else:
            make_other(tmp_path, name="dance")
        return Predictor.open(open_bundle(tmp_path / "store"))

    why = {
        "missing": "there is no such folder",
        "golden": "the golden example's answer differs",
        "input": "takes another input",
        "name": "is of 'dance'",
        "surprise": "surprise",
    }[fault]
    with caplog.at_level(logging.WARNING), both(Predictor.open(one), load, ALL, state="failed") as client:
        wait_until(lambda: tracks(client).trouble is not None, "nothing is told")
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("the challenger isn't served, the champion is: ") and why in line
        told = client.get("/tracks").json()["tracks"]["canary"]
        assert told["state"] == "failed" and why in told["reason"]
        assert str(tmp_path) not in told["reason"]
        assert sample(client.get("/metrics").text, "vitruvian_challenger_ready") == 0
        response = ask(client)
        assert (response.json()["version"], response.headers["x-vitruvian-fallback"]) == ("v1", "not-ready")
        problem(ask(client, x_vitruvian_track="canary"), 503 if fault == "golden" else 404)
        assert client.get("/v2/health/ready").status_code == 200


def test_a_full_challenger_is_answered_for_only_where_nobody_asked_for_it(one: Bundle, held: Held) -> None:
    held.go.set()
    settings = Settings(queue_seconds=25, deadline_seconds=1000, lanes=1)
    with both(Predictor.open(one), Predictor(held.bundle, held), ALL, settings) as client:
        canary = tracks(client).canary
        assert canary is not None
        # As if each had taken ten seconds so far.
        canary.lanes.expect(10)
        held.go.clear()
        held.running = threading.Semaphore(0)
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(ask, client)]
            assert held.running.acquire(timeout=30)
            for at in (1, 2):
                waiting.append(pool.submit(ask, client))
                wait_until(partial(lambda count: canary.lanes.waiting == count, at), "it doesn't wait")
            response = ask(client)
            assert (response.json()["version"], response.headers["x-vitruvian-fallback"]) == ("v1", "busy")
            problem(ask(client, x_vitruvian_track="canary"), 429)
            held.go.set()
            assert [each.result().json()["version"] for each in waiting] == ["v2"] * 3
        assert client.get("/tracks").json()["fallbacks"] == {"busy": 1}


def test_a_challenger_that_hangs_is_noticed_and_comes_back(one: Bundle, held: Held) -> None:
    held.go.set()
    settings = Settings(lanes=1, deadline_seconds=1000)
    with both(Predictor.open(one), Predictor(held.bundle, held), ALL, settings) as client:
        held.go.clear()
        with ThreadPoolExecutor() as pool:
            hangs = pool.submit(ask, client)
            wait_until(lambda: tracks(client).state == "stalled", "nobody notices")
            for _ in range(20):
                response = ask(client)
                assert (response.json()["version"], response.headers["x-vitruvian-fallback"]) == ("v1", "busy")
            assert "stalled" in problem(ask(client, x_vitruvian_track="canary"), 429)["detail"]
            assert client.get("/tracks").json()["tracks"]["canary"]["state"] == "stalled"
            assert sample(client.get("/metrics").text, "vitruvian_challenger_ready") == 0
            held.go.set()
            assert hangs.result().json()["version"] == "v2"
        assert ask(client).json()["version"] == "v2"


def test_a_challengers_fault_is_its_own(one: Bundle, two: Bundle) -> None:
    class Broken(Held):
        fine = True

        def run(self, batch: Any) -> Any:
            if not self.fine:
                raise RuntimeError("no")
            return super().run(batch)

    engine = Broken(two)
    engine.go.set()
    with both(Predictor.open(one), Predictor(two, engine)) as client:
        engine.fine = False
        problem(ask(client, x_vitruvian_track="canary"), 500)
        assert ask(client).json()["label"] == "red"
        text = client.get("/metrics").text
        assert sample(text, "vitruvian_requests_total", code="500", track="canary") == 1
        assert not [line for line in text.splitlines() if 'code="500"' in line and 'track="stable"' in line]


def test_bodies_of_a_challengers_requests_have_room_of_their_own(one: Bundle, held: Held) -> None:
    held.go.set()
    settings = Settings(lanes=1, deadline_seconds=1000, max_body=50_000, max_bodies=50_000)
    with both(Predictor.open(one), Predictor(held.bundle, held), ALL, settings) as client:
        held.go.clear()
        large = picture("red") + bytes(30_000)

        def send() -> Any:
            return client.post("/predict/image", content=large)

        with ThreadPoolExecutor() as pool:
            hangs = pool.submit(send)
            wait_until(lambda: tracks(client).canary.bodies.held > 30_000, "it isn't there")  # type: ignore[union-attr]
            response = send()
            assert (response.status_code, response.headers["x-vitruvian-fallback"]) == (200, "busy")
            held.go.set()
            assert hangs.result().status_code == 200


def test_what_the_drawn_challenger_cant_answer_goes_back_to_the_champion(one: Bundle, tmp_path: Path) -> None:
    other = make_other(tmp_path / "size", size=48)
    with both(Predictor.open(one), Predictor.open(other), ALL) as client:
        pixels = bytes(4 * 3 * 32 * 32)
        back = infer_binary(client, "pixels", "FP32", [1, 3, 32, 32], pixels)
        assert (back.json()["model_version"], back.headers["x-vitruvian-fallback"]) == ("v1", "unsuited")
        assert back.headers["x-vitruvian-track"] == "stable"
        rows = [[[0.5] * 32] * 32] * 3
        v1 = client.post("/v1/models/yoga:predict", json={"instances": [rows]})
        assert (v1.status_code, v1.headers["x-vitruvian-fallback"]) == (200, "unsuited")
        named = client.post(
            "/v2/models/yoga/infer",
            json={"inputs": [{"name": "pixels", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": rows}]},
            headers={"x-vitruvian-track": "canary"},
        )
        problem(named, 422)
        assert ask(client).json()["version"] == "v2"
        text = client.get("/metrics").text
        for track in ("stable", "canary"):
            assert sample(text, "vitruvian_requests_in_flight", track=track) == (track == "stable")
    clip = make_bundle(tmp_path / "clip", clip=True)
    with both(Predictor.open(clip), Predictor.open(make_other(tmp_path / "plain")), ALL) as client:
        document = {"image": b64(picture("white")), "labels": ["white", "red"]}
        back = client.post("/predict", json=document)
        assert (back.json()["label"], back.json()["version"]) == ("white", "v1")
        assert back.headers["x-vitruvian-fallback"] == "unsuited"
        problem(client.post("/predict", json=document, headers={"x-vitruvian-track": "canary"}), 422)


def test_embeddings_come_from_another_version_only_by_name(tmp_path: Path) -> None:
    one, two = (make_bundle(tmp_path / version, clip=True, version=version) for version in ("v1", "v2"))
    with both(Predictor.open(one), Predictor.open(two), ALL) as client:
        document = {"input": "red", "model": "yoga"}
        assert client.post("/v1/embeddings", json=document).headers["x-vitruvian-version"] == "v1"
        named = client.post("/v1/embeddings", json=document, headers={"x-vitruvian-track": "canary"})
        assert named.headers["x-vitruvian-version"] == "v2"


def test_a_challenger_ends_when_the_champion_does(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two), ALL) as client:
        stable = tracks(client).stable
        stable.leave()
        assert ask(client).json()["version"] == "v2"
        stable.drain()
        problem(ask(client), 503)
        problem(ask(client, x_vitruvian_track="canary"), 503)


# Both answers to one picture


@pytest.mark.parametrize("colour", ["red", "purple", "teal", "orange"])
def test_one_picture_is_answered_by_both_as_each_answers_alone(client: TestClient, colour: str) -> None:
    content = picture(colour)
    mine = client.post("/predict/image", content=content, headers={"x-vitruvian-track": "stable"}).json()
    theirs = client.post("/predict/image", content=content, headers={"x-vitruvian-track": "canary"}).json()
    for answer in (
        client.post("/compare", content=content).json(),
        client.post("/compare", files={"file": content}).json(),
        client.post("/compare", json={"image": b64(content)}).json(),
    ):
        for part, alone in (("stable", mine), ("canary", theirs)):
            assert answer[part].pop("seconds") > 0
            assert answer[part] == {key: value for key, value in alone.items() if key != "request_id"}
        assert answer["same"] == (mine["label"] == theirs["label"])
        one, two = ({each["class_name"]: each["score"] for each in part["predictions"]} for part in (mine, theirs))
        assert answer["difference"] == pytest.approx(max(abs(one[label] - two[label]) for label in LABELS), abs=2e-6)


def test_a_comparison_shows_as_many_labels_as_are_wanted(client: TestClient) -> None:
    content = picture("red")
    for answer in (
        client.post("/compare?top_k=1", content=content).json(),
        client.post("/compare", files={"file": content}, data={"top_k": "1"}).json(),
        client.post("/compare", json={"image": b64(content), "top_k": 1}).json(),
    ):
        assert [len(answer[part]["predictions"]) for part in ("stable", "canary")] == [1, 1]
    assert "top_k" in problem(client.post("/compare", json={"image": b64(content), "topk": 1}), 400)["detail"]


def test_a_comparison_is_refused_as_a_prediction_is(client: TestClient) -> None:
    problem(client.post("/compare", content=b"junk"), 422)
    problem(client.post("/compare", json={}), 400)
    problem(client.post("/compare", content=picture("red"), headers={"x-request-timeout": "1e-9"}), 429)
    problem(client.get("/compare"), 405)


def test_the_same_version_may_be_tried_against_itself(one: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(one)) as client:
        answer = client.post("/compare", content=picture("red")).json()
        assert (answer["same"], answer["difference"]) == (True, 0)
        assert client.get("/v2/models/yoga").json()["versions"] == ["v1"]


# What a challenger gets


@pytest.mark.parametrize(
    ("lanes", "share", "own", "bodies"),
    [(16, 0, 1, 32), (16, 1, 1, 32), (16, 10, 2, 64), (16, 50, 8, 256), (16, 100, 16, 512), (1, 10, 1, 512)],
)
def test_a_challenger_gets_lanes_and_memory_by_its_share(lanes: int, share: float, own: int, bodies: int) -> None:
    found = challenger_settings(Settings(lanes=lanes, max_bodies=512_000_000), Rules(share=share))
    assert (found.lanes, found.max_bodies, found.track) == (own, bodies * 1_000_000, "canary")
    assert found.max_decoding == max(found.max_decoded, 256_000_000 * own // lanes)


def test_a_challenger_is_opened_under_the_champions_name(one: Bundle, tmp_path: Path) -> None:
    make_other(tmp_path, name="dance")
    opened = open_challenger(str(tmp_path / "store"), one, Settings(), ALL)
    assert (opened.bundle.info.name, opened.bundle.info.version) == ("yoga", "v2")
    with pytest.raises(BundleError):
        open_challenger(str(tmp_path / "nothing"), one, Settings(), ALL)
