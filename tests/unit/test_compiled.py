"""What OpenVINO compiled is kept for the next process, and never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from vitruvian.errors import BundleError
from vitruvian.inference.engine import ENGINES, INPUT, OUTPUTS, Engine
from vitruvian.inference.engines import compiled

SHAPE = (3, 32, 32)
BATCH = np.random.default_rng(0).random((2, *SHAPE), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitruvian" / "compiled"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = np.random.default_rng(1).normal(size=(3 * 32 * 32, 5)).astype(np.float32)
    taken = ops.parameter([-1, *SHAPE], np.float32, name=INPUT)
    flat = ops.reshape(taken, np.array([0, -1], np.int64), special_zero=True)
    logits = ops.matmul(flat, ops.constant(weights), False, False)
    made = openvino.Model([logits], [taken], "linear")
    made.inputs[0].tensor.set_names({INPUT})
    made.outputs[0].tensor.set_names({OUTPUTS[0]})
    openvino.save_model(made, tmp_path / "model.xml", compress_to_fp16=False)
    return tmp_path / "model.xml"


def opened(path: Path, content: str | None = "bundle 1", shape: tuple[int, ...] = SHAPE) -> Engine:
    return ENGINES["openvino"](path, shape, 1, 1, content)


def test_what_was_compiled_once_is_not_compiled_again(model: Path) -> None:
    first = opened(model).run(BATCH)
    # It is all that compiling would read, and the weights stay.
    model.unlink()
    np.testing.assert_array_equal(opened(model).run(BATCH), first)


def test_what_is_kept_holds_no_weights(model: Path, cache: Path) -> None:
    opened(model)
    (kept,) = cache.iterdir()
    assert kept.stat().st_size < model.with_suffix(".bin").stat().st_size


@pytest.mark.parametrize("other", ["bundle 2", None])
def test_what_another_model_was_compiled_to_is_not_used(model: Path, other: str | None) -> None:
    opened(model)
    model.unlink()
    with pytest.raises(BundleError, match="can't be loaded"):
        opened(model, other)


@pytest.mark.parametrize(
    "spoil", [lambda kept: kept[:-1], lambda kept: b"", lambda kept: kept[:99] + b"x" + kept[100:]]
)
def test_what_is_damaged_is_compiled_anew(model: Path, cache: Path, spoil: object) -> None:
    first = opened(model).run(BATCH)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    assert callable(spoil)
    kept.write_bytes(spoil(whole))
    np.testing.assert_array_equal(opened(model).run(BATCH), first)
    assert len(kept.read_bytes()) == len(whole)
    model.unlink()
    np.testing.assert_array_equal(opened(model).run(BATCH), first)


def test_a_kept_model_that_takes_other_inputs_is_refused(model: Path) -> None:
    opened(model)
    with pytest.raises(BundleError, match="takes"):
        opened(model, shape=(3, 64, 64))


def test_a_cache_that_cannot_be_written_stops_nothing(model: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("no folder")
    assert opened(model).run(BATCH).shape == (2, 5)


def test_only_so_many_are_kept(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_MOST", 2)
    for number in range(4):
        opened(model, f"bundle {number}")
    assert len(list(cache.iterdir())) == 2


def test_a_folder_among_what_is_kept_stays_and_stops_nothing(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_MOST", 2)
    (cache / "somebody's").mkdir(parents=True)
    os.utime(cache / "somebody's", (0, 0))
    for number in range(4):
        opened(model, f"bundle {number}")
    assert sorted(each.is_dir() for each in cache.iterdir()) == [False, False, True]
