"""Exports: which one is served, and bundles whose labels are told apart by embeddings."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from tests.bundles import LABELS, make_bundle, picture
from vitruvian.bundle import Bundle, ExportRecord, Machine, TrainedRecord
from vitruvian.cli import ExportFormat, app
from vitruvian.console import Teller
from vitruvian.errors import BundleError, DataError, ExportError, SpecError
from vitruvian.export.again import export_bundle
from vitruvian.export.formats import SERVABLE
from vitruvian.export.make import Exports, Told, export_all
from vitruvian.export.parity import Examples, Trained, choose, judged, least_cosine
from vitruvian.export.table import exports_table
from vitruvian.inference.choice import chosen, fastest, least
from vitruvian.inference.predictor import Prediction, Predictor
from vitruvian.inference.texts import Texts
from vitruvian.machine import cpu_features, cpu_model, usable_cpus
from vitruvian.spec import Format


def trained(right: float) -> Trained:
    """Return what a model says of a hundred examples, so many of them right."""
    labels = np.zeros(100, np.int64)
    logits = np.zeros((100, 2), np.float32)
    logits[np.arange(100), (np.arange(100) >= 100 * right).astype(int)] = 1
    return Trained(Examples(lambda indices: logits[indices], labels), logits)


def record(format: str, seconds: float, validation: float = 0.9, difference: float = 1e-6) -> ExportRecord:
    return ExportRecord(
        format=format,
        path=f"{format}/model",
        max_difference=difference,
        top1_agreement=1.0,
        accuracy=0.9,
        seconds_per_image=seconds,
        validation_accuracy=validation,
    )


@pytest.mark.parametrize(
    ("records", "served"),
    [
        ([record("onnx", 0.3), record("openvino-int8", 0.1)], "openvino-int8"),
        ([record("onnx", 0.3), record("openvino-int8", 0.1, validation=0.8)], "onnx"),
        ([record("onnx", 0.3), record("openvino-int8", 0.1, validation=0.89)], "openvino-int8"),
        ([record("onnx", 0.1), record("openvino-bf16", 0.3)], "onnx"),
        ([record("torchscript", 0.01), record("onnx", 0.3)], "onnx"),
        ([record("onnx", 0.1, difference=0.5), record("openvino", 0.3)], "openvino"),
    ],
)
def test_the_fastest_that_keeps_the_accuracy_is_served(records: list[ExportRecord], served: str) -> None:
    held = judged(records, trained(0.9), trained(0.9), 0.01)
    assert choose(held, trained(0.9), trained(0.9), 0.01).format == served


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([record("openvino-int8", 0.1, validation=0.8)], "export openvino-int8: loses 0.1000 of accuracy"),
        ([record("onnx", 0.1, difference=0.01)], "a probability differs by 0.01"),
        ([record("onnx", 0.1, difference=float("nan"))], "a probability differs by nan"),
        ([record("torchscript", 0.1)], "no server can run torchscript; add one of: onnx"),
    ],
)
def test_where_none_may_be_served_each_is_told_why(records: list[ExportRecord], words: str) -> None:
    held = judged(records, trained(0.9), trained(0.9), 0.01)
    with pytest.raises(ExportError, match=words):
        choose(held, trained(0.9), trained(0.9), 0.01)


def test_the_table_says_what_is_served_in_80_columns() -> None:
    records = [record("openvino-int8", 0.1), record("tensorrt-int8", 0.2, validation=0.1)]
    held = [one.model_copy(update={"size": 345_600_000, "cosine": 0.9999}) for one in records]
    held[1] = held[1].model_copy(update={"kept": False})
    out = io.StringIO()
    Console(file=out, width=80).print(exports_table(held, "openvino-int8"))
    head, served, lossy = out.getvalue().splitlines()
    assert head.split() == ["format", "ms", "MB", "agrees", "cosine", "validation", "test"]
    assert served.rstrip().endswith("  served")
    assert lossy.rstrip().endswith("  loses too much")


@pytest.mark.parametrize("told", ["accuracy", "agreement"])
def test_of_one_set_of_examples_the_table_says_what_was_measured(told: Told) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(exports_table([record("onnx", 0.1)], None, told))
    head, row = out.getvalue().splitlines()
    assert head.split() == ["format", "ms", "MB", "agrees", "cosine", told]
    assert row.split() == ["onnx", "100.00", "100.0%", "0.900"]


def test_the_table_begins_with_what_exports_are_faster_than() -> None:
    itself = TrainedRecord(seconds_per_image=0.25, size=345_600_000, accuracy=0.9, validation_accuracy=0.8)
    out = io.StringIO()
    Console(file=out, width=80).print(exports_table([record("onnx", 0.1)], "onnx", trained=itself))
    _, first, second = out.getvalue().splitlines()
    assert first.split() == ["torch", "250.00", "345.6", "100.0%", "1.0000", "0.800", "0.900"]
    assert second.split()[0] == "onnx"


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3, 3)).eval()


def exported(module: nn.Module, formats: list[str], folder: Path, **more: Any) -> Exports:
    """Export a module that is right on all of forty examples."""
    tensors = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
    with torch.inference_mode():
        labels = module(torch.from_numpy(tensors)).argmax(1).numpy()
    examples = Examples(lambda indices: tensors[indices], labels)
    folder.mkdir()
    return export_all(
        "resnet50",
        module,
        LABELS,
        tensors,
        examples,
        examples,
        formats,
        ["{}"],
        1,
        folder,
        Teller(Console()).bar,
        **more,
    )


def test_a_declaration_of_int8_alone_gets_an_export_for_audits_which_is_not_chosen(
    linear: nn.Module, tmp_path: Path
) -> None:
    made = exported(linear, ["onnx-int8"], tmp_path / "served")
    assert [one.format for one in made.records] == ["onnx-int8", "onnx"]
    assert made.serve is not None and made.serve.format == "onnx-int8"
    assert (tmp_path / "served/onnx/model.onnx").is_file()
    elsewhere = exported(linear, ["onnx-int8"], tmp_path / "elsewhere", for_serving=False)
    assert [one.format for one in elsewhere.records] == ["onnx-int8"]


def test_the_trained_model_is_timed_as_its_exports_are(linear: nn.Module, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    itself = exported(linear, ["onnx"], tmp_path / "made").trained
    assert itself is not None and itself.seconds_per_image > 0
    assert (itself.size, itself.accuracy, itself.validation_accuracy) == (12 * 4, 1, 1)
    assert torch.get_num_threads() == threads


def test_a_records_golden_answer_is_that_to_the_golden_example(linear: nn.Module, tmp_path: Path) -> None:
    golden = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (found,) = exported(linear, ["onnx"], tmp_path / "made", golden=golden).records
    with torch.inference_mode():
        expected = linear(torch.from_numpy(golden)).softmax(1)[0].tolist()
    assert found.golden == pytest.approx(expected, abs=1e-5)


def test_pictures_to_export_with_that_are_nowhere_are_named(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "file").write_bytes(b"")
    for name, words in (("nodir", "nodir: there is no such folder"), ("file", "file: is not a folder")):
        with pytest.raises(DataError, match=words):
            export_bundle(bundle, ["onnx"], tmp_path / "out", tmp_path / name, 0.01, Teller(Console()))


def test_without_a_validation_part_the_test_part_decides() -> None:
    loses = record("openvino-int8", 0.1).model_copy(update={"validation_accuracy": None, "accuracy": 0.5})
    held = judged([record("onnx", 0.3), loses], trained(0.9), trained(0.9), 0.01)
    assert [one.kept for one in held] == [True, False]


def test_the_least_cosine_is_that_of_the_worst_input() -> None:
    logits = np.array([[1, 0], [1, 1]], np.float32)
    assert least_cosine(logits, np.array([[2, 0], [1, 0]], np.float32)) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("colour", LABELS)
def test_a_clips_labels_are_told_apart_by_its_head(tmp_path: Path, colour: str) -> None:
    bundle = make_bundle(tmp_path, clip=True)
    predictor = Predictor.open(bundle)
    predictor.warm_up()
    (answer,) = predictor.predict_files([(picture(colour), colour)])
    assert isinstance(answer, Prediction) and answer.label == colour


def test_texts_are_embedded_as_pictures_are(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, clip=True)
    assert bundle.info.text is not None
    texts = Texts(bundle.folder, bundle.info.text)
    embeddings = texts.encode([f"a photo of {colour}." for colour in LABELS])
    predictor = Predictor.open(bundle)
    pictures = np.stack([bundle.preprocess.prepare(picture(colour), colour) for colour in LABELS])
    assert (predictor.outputs(pictures) @ embeddings.T).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("path", ["head.safetensors", "text/model.onnx", "text/tokenizer.json"])
def test_a_damaged_tower_is_refused_by_name(tmp_path: Path, path: str) -> None:
    bundle = make_bundle(tmp_path, clip=True)
    assert bundle.info.text is not None
    (bundle.folder / "exports" / path).write_bytes(b"junk")
    load = Predictor.open if path.startswith("head") else lambda bundle: Texts(bundle.folder, bundle.info.text)
    with pytest.raises(BundleError, match=path):
        load(bundle)


def test_another_export_can_be_chosen_by_name(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert bundle.serving("onnx").served.format == "onnx"
    with pytest.raises(BundleError, match="has no export 'openvino'; choose one of: onnx"):
        bundle.serving("openvino")


# Which one is served where a server starts


def two_exports(root: Path, *, here: bool = False, damaged: bool = False) -> Bundle:
    """Return a bundle with the same model twice, served as the one of the greater name."""
    bundle = make_bundle(root)
    (bundle.folder / "exports/other").mkdir()
    model = bundle.folder / bundle.served.path
    (bundle.folder / "exports/other/model.onnx").write_bytes(b"junk" if damaged else model.read_bytes())
    other = bundle.served.model_copy(update={"format": "onnx-int8", "path": "exports/other/model.onnx"})
    machine = Machine(cpu=cpu_model() if here else "another", features=cpu_features(), cpus=usable_cpus())
    exports = (bundle.served, other)
    info = bundle.info.model_copy(update={"exports": exports, "serve": "onnx-int8", "machine": machine})
    return Bundle(bundle.folder, info, bundle.preprocess, bundle.digest)


def test_on_another_cpu_exports_are_measured_again_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = two_exports(tmp_path)
    lines: list[str] = []
    chosen = fastest(bundle, 1, lines.append)
    assert "onnx " in lines[0] and "onnx-int8 " in lines[0] and lines[0].endswith(f"serving {chosen.info.serve}")
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert fastest(bundle, 1, lines.append).info.serve == chosen.info.serve
    assert lines[1] == lines[0]


def test_what_was_measured_on_such_a_cpu_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert fastest(two_exports(tmp_path, here=True), 1, pytest.fail).info.serve == "onnx-int8"


def test_an_export_that_doesnt_run_here_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fastest(two_exports(tmp_path, damaged=True), 1).info.serve == "onnx"


def test_the_least_seconds_win() -> None:
    assert least({"openvino-bf16": 0.3, "openvino-int8": 0.1, "onnx": 0.2}) == "openvino-int8"


def test_the_command_line_knows_the_declarations_formats() -> None:
    assert {format.value for format in ExportFormat} == set(get_args(Format))
    assert set(get_args(Format)) >= SERVABLE


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("openvino-int8", "has no export 'openvino-int8'; choose one of: onnx, openvino$"),
        ("torchscript", "'torchscript' is for programs elsewhere; choose one of: onnx, openvino$"),
    ],
)
def test_a_format_that_cant_be_served_is_refused_with_those_that_can(tmp_path: Path, format: str, words: str) -> None:
    bundle = make_bundle(tmp_path)
    records = tuple(record(name, 0.1) for name in ("onnx", "openvino", "torchscript"))
    bundle = replace(bundle, info=bundle.info.model_copy(update={"exports": records}))
    assert chosen(bundle, "openvino").info.serve == "openvino"
    with pytest.raises(BundleError, match=words):
        chosen(bundle, format)


@pytest.mark.parametrize("flag", [("--format", "onnx"), ("--out", "made"), ("--images", "."), ("--accuracy-drop", "0")])
def test_what_is_for_a_bundle_is_refused_beside_a_declaration(tmp_path: Path, flag: tuple[str, str]) -> None:
    failed = CliRunner().invoke(app, ["export", "-f", str(tmp_path / "none.yaml"), *flag]).exception
    assert isinstance(failed, SpecError)
    assert str(failed).startswith(f"{flag[0]}: goes with a BUNDLE; ")
