"""Shadow traffic: what is counted is what a client would count itself, and nothing of it harms an answer."""

from __future__ import annotations

import logging
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.bundles import heatmaps, make_bundle, npy, picture
from tests.serving import Held, infer_binary, items, sample
from tests.versions import both, make_other, tracks, wait_until
from vitruvian.bundle import Bundle
from vitruvian.inference import shadow
from vitruvian.inference.agreement import agreement, difference
from vitruvian.inference.predictor import Prediction, Predictor
from vitruvian.inference.rules import Rules
from vitruvian.inference.service import Settings
from vitruvian.intervals import wilson
from vitruvian.observability.metrics import TRACKS

SHADOWED = Rules(shadow=100)
COLOURS = [f"#{r:02x}{g:02x}{b:02x}" for r in (0, 90, 180, 250) for g in (0, 120, 240) for b in (20, 160, 255)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_other(tmp_path_factory.mktemp("two"))


@pytest.fixture
def held(two: Bundle) -> Iterator[Held]:
    engine = Held(two)
    engine.go.set()
    yield engine
    engine.go.set()


def told(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/tracks").json()["agreement"]
    return found


def settled(client: TestClient, count: int) -> dict[str, Any]:
    """Return what is counted once that many inputs are."""

    def done() -> bool:
        found = told(client)
        return bool(found["samples"] + found["dropped"] + found["failed"] == count)

    wait_until(done, f"{told(client)} instead of {count}")
    return told(client)


def predicted(client: TestClient, content: bytes, track: str) -> dict[str, float]:
    answer = client.post("/predict/image", content=content, headers={"x-vitruvian-track": track}).json()
    assert answer["track"] == track
    return {each["class_name"]: each["score"] for each in answer["predictions"]}


def best(scores: dict[str, float]) -> str:
    return max(scores, key=scores.__getitem__)


def apart(mine: dict[str, float], theirs: dict[str, float]) -> float:
    return max(abs(mine.get(label, 0) - theirs.get(label, 0)) for label in {*mine, *theirs})


@pytest.mark.parametrize(
    "other",
    [{}, {"size": 48}, {"labels": ("red", "violet", "blue")}],
    ids=["decoded once", "decoded otherwise", "other labels"],
)
def test_agreement_is_what_a_client_counts_that_asks_both(one: Bundle, tmp_path: Path, other: dict[str, Any]) -> None:
    with both(Predictor.open(one), Predictor.open(make_other(tmp_path, **other)), SHADOWED) as client:
        same = 0
        pairs: Counter[tuple[str, str]] = Counter()
        differences = []
        for colour in COLOURS:
            content = picture(colour)
            mine, theirs = (predicted(client, content, track) for track in ("stable", "canary"))
            same += best(mine) == best(theirs)
            if best(mine) != best(theirs):
                pairs[best(mine), best(theirs)] += 1
            differences.append(apart(mine, theirs))
        found = settled(client, len(COLOURS))
        assert 0 < same < len(COLOURS)
        assert (found["same"], found["different"]) == (same, len(COLOURS) - same)
        assert (found["dropped"], found["failed"], found["waiting"]) == (0, 0, 0)
        assert {(each["champion"], each["challenger"]): each["count"] for each in found["confusion"]} == pairs
        assert found["mean_difference"] == pytest.approx(np.mean(differences), abs=2e-6)
        low, high = wilson(same, len(COLOURS))
        assert found["agreement"] == pytest.approx({"share": same / len(COLOURS), "low": low, "high": high}, abs=1e-6)
        text = client.get("/metrics").text
        it = {"classifier": "yoga", "version": "v2", "track": "canary", "champion": "v1"}
        assert sample(text, "vitruvian_shadow_total", agreement="same", **it) == same
        assert sample(text, "vitruvian_shadow_total", agreement="different", **it) == len(COLOURS) - same
        for (champion, challenger), count in pairs.items():
            labels = {**it, "champion_class": champion, "class": challenger}
            assert sample(text, "vitruvian_shadow_confusion_total", **labels) == count
        for bound in (0.01, 0.1, 0.5):
            within = sum(each <= bound for each in differences)
            assert sample(text, "vitruvian_shadow_difference_bucket", le=str(bound), **it) == within
        for track in ("stable", "canary"):
            assert sample(text, "vitruvian_shadow_seconds_count", track=track) == len(COLOURS)
        # Nobody got these: they count as nobody's requests and predictions.
        assert sample(text, "vitruvian_requests_total", track="canary", code="200") == len(COLOURS)
        counted = [
            line for line in text.splitlines() if line.startswith("vitruvian_predictions_total") and "v2" in line
        ]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) == len(COLOURS)


def test_every_metric_of_a_challenger_is_exposed_and_well_named(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two), SHADOWED) as client:
        text = client.get("/metrics").text
    for metric in TRACKS:
        assert f"# TYPE {metric.name} {metric.kind}" in text
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert (metric.kind == "histogram") == bool(metric.buckets)


def test_several_inputs_and_tensors_are_compared_too(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two), SHADOWED) as client:
        infer_binary(client, "image", "BYTES", [3], items(*map(picture, ("red", "green", "blue"))))
        assert settled(client, 3)["samples"] == 3
        pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype("<f4")
        infer_binary(client, "pixels", "FP32", [2, 3, 32, 32], pixels.tobytes())
        assert settled(client, 5)["samples"] == 5
        mine, theirs = (Predictor.open(bundle).predict_tensors(pixels) for bundle in (one, two))
        same = int((mine.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        assert settled(client, 5)["same"] >= same
        # Some can't be used: nothing to compare.
        client.post("/predict/image", content=b"junk")
        infer_binary(client, "image", "BYTES", [2], items(picture("red"), b"junk"))
        assert settled(client, 6)["samples"] == 6


def test_heatmaps_are_compared_too(tmp_path: Path) -> None:
    one, two = (make_bundle(tmp_path / version, "heatmap", version=version) for version in ("v1", "v2"))
    with both(Predictor.open(one), Predictor.open(two), SHADOWED) as client:
        for strong in range(3):
            client.post("/predict/image", content=npy(heatmaps(strong)))
        found = settled(client, 3)
        assert (found["same"], found["mean_difference"]) == (3, 0)


def test_what_means_nothing_to_the_challenger_isnt_compared(tmp_path: Path, one: Bundle) -> None:
    clips = [make_bundle(tmp_path / version, clip=True, version=version) for version in ("v1", "v2")]
    with both(Predictor.open(clips[0]), Predictor.open(clips[1]), SHADOWED) as client:
        client.post("/predict/image", data={"labels": '["white", "red"]'}, files={"file": picture("white")})
        client.post("/v1/embeddings", json={"input": "red"})
        client.post("/predict/image", content=picture("red"), headers={"x-precision": "fp32"})
        client.post("/predict/image", content=picture("red"))
        assert settled(client, 1)["samples"] == 1
    with both(Predictor.open(one), Predictor.open(make_other(tmp_path / "size", size=48)), SHADOWED) as client:
        # Prepared for the champion by whoever sent it.
        infer_binary(client, "pixels", "FP32", [1, 3, 32, 32], bytes(4 * 3 * 32 * 32))
        client.post("/predict/image", content=picture("red"))
        assert settled(client, 1)["samples"] == 1


def test_a_share_of_the_requests_is_shadowed(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two), Rules(shadow=30)) as client:
        for _ in range(400):
            client.post("/predict/image", content=picture("red"))
        wait_until(lambda: told(client)["waiting"] == 0, "it still waits")
        # One in ten million is outside.
        assert 72 <= settled(client, told(client)["samples"])["samples"] <= 170


def test_a_challenger_that_fails_is_counted_told_once_and_harms_no_answer(
    one: Bundle, two: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Held):
        fine = True

        def run(self, batch: Any) -> Any:
            if self.fine:
                return super().run(batch)
            raise RuntimeError("no")

    engine = Broken(two)
    engine.go.set()
    with caplog.at_level(logging.WARNING), both(Predictor.open(one), Predictor(two, engine), SHADOWED) as client:
        engine.fine = False
        for _ in range(10):
            assert client.post("/predict/image", content=picture("red")).json()["version"] == "v1"
        found = settled(client, 10)
        assert (found["failed"], found["samples"], found["agreement"]) == (10, 0, None)
        (line,) = [record.getMessage() for record in caplog.records]
        assert "no answer where the champion has one" in line
        engine.fine = True
        client.post("/predict/image", content=picture("red"))
        assert settled(client, 11)["samples"] == 1


def test_a_challenger_that_hangs_costs_bounded_memory_and_no_answer(one: Bundle, held: Held) -> None:
    with both(Predictor.open(one), Predictor(held.bundle, held), SHADOWED) as client:
        held.go.clear()
        for _ in range(100):
            assert client.post("/predict/image", content=picture("red")).json()["version"] == "v1"
        found = settled(client, 100 - 1 - shadow.MOST_WAITING)
        assert (found["dropped"], found["waiting"]) == (100 - 1 - shadow.MOST_WAITING, shadow.MOST_WAITING)
        wait_until(lambda: tracks(client).state == "stalled", "nobody notices")
        held.go.set()
        assert settled(client, 100)["samples"] == 1 + shadow.MOST_WAITING
        assert tracks(client).state == "ready"


@pytest.mark.parametrize("size", [32, 48], ids=["decoded", "as they came"])
def test_what_waits_for_a_challenger_holds_no_more_than_its_bytes(one: Bundle, tmp_path: Path, size: int) -> None:
    engine = Held(make_other(tmp_path, size=size))
    engine.go.set()
    large = picture("red") + bytes(8_000_000)
    with both(Predictor.open(one), Predictor(engine.bundle, engine), SHADOWED) as client:
        engine.go.clear()
        client.post("/predict/image", content=large)
        tracemalloc.start()
        try:
            for _ in range(20):
                assert client.post("/predict/image", content=bytes(large)).status_code == 200
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # A decoded picture of this size has 3 kB; encoded ones find room for 64 MB.
        assert grown < (4_000_000 if size == 32 else shadow.MOST_BYTES + 4_000_000)
        assert told(client)["dropped"] == (0 if size == 32 else 21 - shadow.MOST_BYTES // len(large))
        engine.go.set()


def test_a_row_of_a_large_request_doesnt_keep_all_of_it(one: Bundle, held: Held) -> None:
    with both(Predictor.open(one), Predictor(held.bundle, held), SHADOWED) as client:
        held.go.clear()
        tracemalloc.start()
        try:
            for _ in range(20):
                blob = np.zeros((64, 3, 32, 32), "<f4").tobytes()
                assert infer_binary(client, "pixels", "FP32", [64, 3, 32, 32], blob).status_code == 200
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert grown < 5_000_000
        held.go.set()


class Stepped(Held):
    """A model that runs once each time it is let, and notes its end."""

    def __init__(self, bundle: Bundle, name: str, ended: list[str]) -> None:
        super().__init__(bundle)
        self.go.set()
        self.name, self.ended = name, ended
        self.steps: threading.Semaphore | None = None

    def run(self, batch: Any) -> Any:
        answer = super().run(batch)
        assert self.steps is None or self.steps.acquire(timeout=30)
        self.ended.append(self.name)
        return answer


def test_the_challenger_begins_only_while_a_cpu_is_free(one: Bundle, two: Bundle) -> None:
    ended: list[str] = []
    champion, challenger = Stepped(one, "champion", ended), Stepped(two, "challenger", ended)
    with both(Predictor(one, champion), Predictor(two, challenger), SHADOWED, Settings(lanes=1)) as client:
        ended.clear()
        champion.steps = threading.Semaphore(0)
        champion.running = threading.Semaphore(0)
        with ThreadPoolExecutor() as pool:
            first = pool.submit(client.post, "/predict/image", content=picture("red"))
            assert champion.running.acquire(timeout=30)
            second = pool.submit(client.post, "/predict/image", content=picture("red"))
            wait_until(lambda: tracks(client).stable.lanes.waiting == 1, "it doesn't wait")
            champion.steps.release()
            first.result()
            # The only lane works again while the first one's input waits for the challenger.
            assert champion.running.acquire(timeout=30)
            time.sleep(0.1)
            champion.steps.release()
            second.result()
        assert settled(client, 2)["samples"] == 2
        assert ended == ["champion", "champion", "challenger", "challenger"]


def test_pairs_of_classes_are_bounded(one: Bundle, two: Bundle) -> None:
    with both(Predictor.open(one), Predictor.open(two), SHADOWED) as client:
        watched = tracks(client).shadow
        assert watched is not None
        labels = tuple(f"class {at}" for at in range(200))
        answers = [Prediction(labels, np.eye(200, dtype=np.float32)[at]) for at in range(200)]
        for at in range(200):
            for other in (at, (at + 1) % 200):
                watched.counts.observe(answers[at], answers[other], (0.1, 0.1))
        found = told(client)
        assert (found["same"], found["different"]) == (200, 200)
        assert len(found["confusion"]) == 101
        assert found["confusion"][0] == {"champion": shadow.OTHER, "challenger": shadow.OTHER, "count": 100}
        families = text_string_to_metric_families(client.get("/metrics").text)
        (series,) = [family for family in families if family.name == "vitruvian_shadow_confusion"]
        assert len(series.samples) == 101


# One input


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    labels = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True))
    rows = arrays(np.float32, len(labels), elements=st.floats(0, 1, width=32))
    return Prediction(tuple(labels), draw(rows))


@given(predictions(), predictions())
def test_the_difference_is_the_largest_over_all_labels_whoever_knows_them(one: Prediction, two: Prediction) -> None:
    mine, theirs = dict(one.ranked()), dict(two.ranked())
    assert difference(one, two) == pytest.approx(apart(mine, theirs))
    assert difference(one, two) == difference(two, one)
    assert difference(one, one) == 0


def test_nothing_compared_yet_is_no_agreement() -> None:
    assert agreement([]) == {
        "samples": 0,
        **dict.fromkeys(("same", "different", "dropped", "failed"), 0),
        "agreement": None,
        "mean_difference": None,
        "confusion": [],
    }
