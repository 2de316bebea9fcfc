"""The predictor: answers, golden example, bundles that must not be served."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.bundles import LABELS, heatmaps, make_bundle, npy, picture
from vitruvian.bundle import Bundle
from vitruvian.errors import BundleError, DataError
from vitruvian.inference.predictor import CHUNK, Prediction, Predictor, softmax
from vitruvian.machine import usable_cpus


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Predictor:
    return Predictor.open(bundle, threads=1)


def answer(result: Prediction | DataError) -> Prediction:
    assert isinstance(result, Prediction)
    return result


def test_each_picture_gets_its_own_answer(predictor: Predictor) -> None:
    results = predictor.predict_files([(picture(label), label) for label in (*LABELS, *LABELS[::-1])])
    assert [answer(result).label for result in results] == [*LABELS, *LABELS[::-1]]


def test_probabilities_are_shares_of_one(predictor: Predictor) -> None:
    batch = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    probabilities = predictor.predict_tensors(batch)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (5, len(LABELS))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_prepared_inputs_and_files_are_answered_alike(predictor: Predictor) -> None:
    content = picture("teal", format="JPEG")
    prepared = predictor.bundle.preprocess.prepare(content, "teal")
    (from_file,) = predictor.predict_files([(content, "teal")])
    np.testing.assert_array_equal(answer(from_file).probabilities, predictor.predict(prepared[None])[0])


def test_a_corrupt_picture_harms_no_neighbour(predictor: Predictor) -> None:
    files = [(picture("red"), "a.png"), (b"junk", "b.png"), (picture("blue"), "c.png"), (b"", "d.png")]
    first, second, third, fourth = predictor.predict_files(files)
    assert (answer(first).label, answer(third).label) == ("red", "blue")
    assert isinstance(second, DataError)
    assert "b.png" in str(second)
    assert isinstance(fourth, DataError)
    assert "d.png" in str(fourth)


def test_a_batch_of_any_size_is_answered(predictor: Predictor) -> None:
    batch = np.random.default_rng(1).normal(size=(2 * CHUNK + 3, 3, 32, 32)).astype(np.float32)
    whole = predictor.predict_tensors(batch)
    one_by_one = np.concatenate([predictor.predict_tensors(batch[at : at + 1]) for at in range(len(batch))])
    np.testing.assert_allclose(whole, one_by_one, atol=1e-6)
    assert predictor.predict_tensors(batch[:0]).shape == (0, len(LABELS))


def test_an_input_beyond_the_models_range_is_named(predictor: Predictor) -> None:
    batch = np.zeros((3, 3, 32, 32), np.float32)
    batch[1] = 3e38
    with pytest.raises(DataError, match="input 1"):
        predictor.predict_tensors(batch)


def test_ranked_labels_come_best_first() -> None:
    prediction = Prediction(("a", "b", "c"), np.array([0.2, 0.5, 0.3], np.float32))
    assert [label for label, _ in prediction.ranked()] == ["b", "c", "a"]
    assert (prediction.label, prediction.confidence) == ("b", 0.5)


def test_softmax_stands_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0, -1e4]], np.float32)), [[1, 0, 0]])


def test_several_threads_get_the_right_answers(predictor: Predictor) -> None:
    wrong: list[str] = []

    def ask(label: str) -> None:
        for _ in range(20):
            (result,) = predictor.predict_files([(picture(label), label)])
            if answer(result).label != label:
                wrong.append(label)

    threads = [threading.Thread(target=ask, args=(label,)) for label in LABELS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_heatmaps_are_answered_in_every_precision(tmp_path: Path) -> None:
    predictor = Predictor.open(make_bundle(tmp_path, "heatmap"))
    predictor.warm_up()
    files = [(npy(heatmaps(2).astype(kind)), kind) for kind in ("float16", "float32", "float64", ">f4")]
    files.append((npy(heatmaps(2)[0]), "without the leading one"))
    first, *others = [answer(result).probabilities for result in predictor.predict_files(files)]
    assert LABELS[int(first.argmax())] == LABELS[2]
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_warm_up_accepts_the_golden_answer(predictor: Predictor) -> None:
    predictor.warm_up()


def test_warm_up_refuses_another_answer(tmp_path: Path) -> None:
    predictor = Predictor.open(make_bundle(tmp_path, golden_shift=0.01))
    with pytest.raises(BundleError, match=r"golden\.png: .*differs by 0\.01"):
        predictor.warm_up()


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(1000)])
def test_a_model_that_does_not_load_is_named(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports/model.onnx").write_bytes(content)
    broken = Bundle(tmp_path, bundle.info, bundle.preprocess, bundle.digest)
    with pytest.raises(BundleError, match=r"exports/model\.onnx"):
        Predictor.open(broken)


def test_a_model_for_other_inputs_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = make_bundle(tmp_path, "heatmap")
    mixed = Bundle(other.folder, other.info, bundle.preprocess, other.digest)
    with pytest.raises(BundleError, match=r"takes \['batch', 17, 64, 48\] instead of"):
        Predictor.open(mixed)


def test_a_model_with_other_classes_is_refused(bundle: Bundle) -> None:
    info = bundle.info.model_copy(update={"labels": ("one", "two")})
    with pytest.raises(BundleError, match=r"shape \[1, 3\] instead of \[1, 2\]"):
        Predictor.open(Bundle(bundle.folder, info, bundle.preprocess, bundle.digest)).warm_up()


def test_a_format_that_cannot_be_served_is_named(bundle: Bundle) -> None:
    exports = (bundle.info.exports[0].model_copy(update={"format": "torchscript"}),)
    info = bundle.info.model_copy(update={"exports": exports, "serve": "torchscript"})
    with pytest.raises(BundleError, match="torchscript"):
        Predictor.open(Bundle(bundle.folder, info, bundle.preprocess, bundle.digest))


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_threads_follow_the_cgroups_quota(tmp_path: Path, files: dict[str, str], most: int | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    without = usable_cpus(tmp_path / "nowhere")
    assert usable_cpus(tmp_path) == (without if most is None else most)


def test_serving_loads_no_training_library() -> None:
    code = (
        "import sys, vitruvian.inference.server, vitruvian.inference.offline;"
        "print([name for name in ('torch', 'ray', 'transformers', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
