"""Every architecture survives the whole job: real processes, interruptions, several workers, export, serving."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import torch
from onnx import load as load_onnx
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from tests.projects import CLASSES, declare, vitruvian, write_data
from tests.stores import BUCKET, moto
from tests.training_runs import TINY_VIT, Killed, chosen_weights, equal, last_checkpoint, make_job, run_ranks
from vitruvian.artifact import fetch
from vitruvian.bundle import Bundle, Exported, open_bundle
from vitruvian.data.prepare import prepare
from vitruvian.data.prepared import Prepared
from vitruvian.data.sources import open_source
from vitruvian.errors import DataError, SpecError
from vitruvian.evaluation.predict import load_model
from vitruvian.export.formats import exporter, opener
from vitruvian.export.parity import least_cosine
from vitruvian.export.source import Source
from vitruvian.export.towers import export_text
from vitruvian.inference.predictor import Head, Predictor
from vitruvian.inference.texts import Texts
from vitruvian.models.batchnorm import SharedBatchNorm
from vitruvian.models.inputs import preprocess_for, weights_version
from vitruvian.models.registry import architecture, towers
from vitruvian.models.resnet50 import Resnet
from vitruvian.spec import Data, Model, Training
from vitruvian.store import Store, open_store
from vitruvian.training.batches import load
from vitruvian.training.checkpoints import read_state
from vitruvian.training.job import Job, best_epoch
from vitruvian.training.loop import train

DEEP = {**TINY_VIT, "layers": 2}
# Small models of each kind; WEIGHTS stands for the folder of small pretrained weights.
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"architecture": "vit", "dimensions": DEEP},
    "vit, frozen": {"architecture": "vit", "dimensions": DEEP, "freezeLayers": 1},
    "resnet50": {"architecture": "resnet50", "pretrained": "WEIGHTS", "dimensions": {"imageSize": 32}},
    "resnet50, frozen": {
        "architecture": "resnet50",
        "pretrained": "WEIGHTS",
        "dimensions": {"imageSize": 32},
        "freezeLayers": 2,
    },
    "clip, prompts": {"architecture": "clip", "dimensions": DEEP, "clip": {"unfreezeText": 1}},
    "clip, frozen": {"architecture": "clip", "dimensions": DEEP, "clip": {"unfreezeVisual": 0, "unfreezeText": 0}},
    "clip, linear": {"architecture": "clip", "dimensions": DEEP, "clip": {"head": "linear", "unfreezeVisual": 1}},
    "vit, lora": {"architecture": "vit", "pretrained": "WEIGHTS", "lora": {"rank": 2, "dropout": 0.2}},
    "clip, lora": {"architecture": "clip", "pretrained": "WEIGHTS", "lora": {"rank": 2}, "clip": {"unfreezeText": 1}},
    "heatmap-cnn": {"architecture": "heatmap-cnn"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture(scope="module")
def weights(root: Path) -> Path:
    torch.manual_seed(3)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], num_labels=5)
    modules: dict[str, nn.Module] = {"resnet50": Resnet(ResNetForImageClassification(config))}
    for name in ("vit", "clip"):
        model = Model.model_validate({"architecture": name, "dimensions": DEEP})
        modules[name] = architecture(name).build(model, CLASSES)
    for name, module in modules.items():
        (root / "weights" / name).mkdir(parents=True)
        architecture(name).save(module, root / "weights" / name)
    return root / "weights"


def _model(name: str, weights: Path) -> Model:
    declared = MODELS[name]
    if declared.get("pretrained"):
        declared = {**declared, "pretrained": str(weights / declared["architecture"])}
    return Model.model_validate(declared)


def _job(root: Path, name: str, weights: Path, run: str, **training: Any) -> Job:
    """Return a job on synthetic pictures or heatmaps; runs of models with equal inputs share them."""
    model = _model(name, weights)
    preprocess = preprocess_for(model)
    if name == "heatmap-cnn":
        return make_job(root, "heatmap-cnn", run, **training)
    folder = root / f"prepared-{model.architecture}"
    if not folder.exists():
        folder.mkdir()
        data = Data.model_validate({"source": "synthetic://poses?count=160"})
        prepare(open_source(data, preprocess), data, preprocess, folder)
    settings = {"epochs": 2, "batchSize": 16, "learningRate": 1e-3, "augmentation": "medium"}
    settings |= {"checkpoints": {"everySteps": 5}}
    return Job(model, Training.model_validate(settings | training), str(folder), str(root / run))


Run = tuple[Job, int | None]
"""A job, and the step after whose checkpoint it breaks off; none: it is trained to its end."""


def _work(rank: int, world: int, runs: Sequence[Run]) -> None:
    for job, stop in runs:
        # Every worker is told of a checkpoint when all have written it.
        with contextlib.suppress(Killed):
            train(job, rank, world, partial(_break_off, stop))


def _break_off(stop: int | None, event: dict[str, Any]) -> None:
    if event["kind"] == "checkpoint" and event["step"] == stop:
        raise Killed


def _train(world: int, *runs: Run) -> None:
    """Train one after the other; several workers are real gloo ranks, each a process of its own."""
    if world > 1:
        run_ranks(_work, world, runs)
        return
    # The bits of a sum follow from the number of threads: the same here as in a rank of its own.
    torch.set_num_threads(1)
    for job, stop in runs:
        with contextlib.suppress(Killed):
            train(job, 0, 1, partial(_break_off, stop))


def _history(job: Job) -> list[dict[str, float]]:
    store = open_store(job.checkpoints)
    manifest = fetch(store, read_state(store).checkpoints[-1]) / "manifest.json"
    history = json.loads(manifest.read_text())["position"]["history"]
    return [{name: value for name, value in record.items() if "econd" not in name} for record in history]


CELLS = [(name, "none", 1) for name in MODELS if name not in ("vit", "heatmap-cnn")] + [
    ("resnet50", "ddp", 2),
    ("clip, prompts", "ddp", 2),
    ("vit, lora", "fsdp", 2),
]


@pytest.mark.parametrize(("name", "strategy", "world"), CELLS)
def test_a_run_that_broke_off_ends_with_the_same_bits(
    root: Path, weights: Path, name: str, strategy: str, world: int
) -> None:
    workers = {"strategy": strategy, "workers": world}
    whole = _job(root, name, weights, f"whole {name} {strategy}", **workers)
    broken = _job(root, name, weights, f"broken {name} {strategy}", **workers)
    # In the middle of the second epoch of 7 steps.
    _train(world, (whole, None), (broken, 10))
    assert [len(_history(job)) for job in (whole, broken)] == [2, 1]
    _train(world, (broken, None))
    assert equal(last_checkpoint(whole), last_checkpoint(broken))
    assert equal(chosen_weights(whole), chosen_weights(broken))
    assert _history(whole) == _history(broken)


def _on_two(root: Path, name: str, weights: Path) -> Job:
    """Return a job that two workers have done; of a batch of 17 one of them gets an example more."""
    job = _job(root, name, weights, f"two {name}", batchSize=17, strategy="ddp", workers=2)
    if not read_state(open_store(job.checkpoints)).checkpoints:
        _train(2, (job, None))
    return job


# Not the heatmap-cnn: what its dropout leaves out is drawn by each worker for itself.
@pytest.mark.parametrize("name", ["resnet50", "clip, prompts", "clip, linear", "clip, lora"])
def test_two_workers_learn_what_one_learns(root: Path, weights: Path, name: str) -> None:
    one = _job(root, name, weights, f"one {name}", batchSize=17)
    _train(1, (one, None))
    for first, second in zip(_history(one), _history(_on_two(root, name, weights)), strict=True):
        assert first["trainLoss"] == pytest.approx(second["trainLoss"], abs=1e-3)
        assert first["validationLoss"] == pytest.approx(second["validationLoss"], abs=1e-3)


@pytest.mark.parametrize("name", ["resnet50", "clip, prompts", "clip, lora"])
def test_what_two_workers_validate_is_what_one_of_them_keeps(root: Path, weights: Path, name: str) -> None:
    job = _on_two(root, name, weights)
    history, store = _history(job), open_store(job.checkpoints)
    kept = read_state(store).weights
    assert kept
    module = load_model(job.model.architecture, fetch(store, kept))
    prepared = Prepared.open(Path(job.prepared))
    inputs, labels = load(part := prepared.part("validation"), np.arange(len(part)), prepared.preprocess)
    with torch.inference_mode():
        loss = float(F.cross_entropy(module(inputs), labels))
    assert loss == pytest.approx(history[best_epoch(history)]["validationLoss"], abs=1e-5)


def _normalise(rank: int, world: int, folder: str) -> None:
    given = torch.load(f"{folder}/given.pt")
    module = SharedBatchNorm(5)
    module.load_state_dict(given["module"])
    # Unequal shares, and no spread within the smaller one.
    mine = slice(0, 6) if rank == 0 else slice(6, 7)
    inputs = given["inputs"][mine].requires_grad_()
    outputs = module(inputs)
    (outputs * given["weights"][mine]).sum().backward()
    state = module.state_dict()
    gradients = {name: value.grad for name, value in module.named_parameters()}
    made = {"outputs": outputs.detach(), "inputs": inputs.grad, "state": state, "gradients": gradients}
    torch.save(made, f"{folder}/made-{rank}.pt")


def test_workers_normalise_as_one_would_with_all_their_examples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Far from zero, where squares lose their digits.
    inputs = (torch.randn(7, 5, 1, 1) + 100).double().float()
    weights = torch.randn(7, 5, 1, 1)
    reference = nn.BatchNorm2d(5)
    nn.init.normal_(reference.weight)
    nn.init.normal_(reference.bias)
    torch.save({"inputs": inputs, "weights": weights, "module": reference.state_dict()}, tmp_path / "given.pt")
    run_ranks(_normalise, 2, str(tmp_path))
    made = [torch.load(tmp_path / f"made-{rank}.pt") for rank in range(2)]

    inputs.requires_grad_()
    outputs = reference(inputs)
    (outputs * weights).sum().backward()
    close = partial(torch.testing.assert_close, atol=2e-4, rtol=2e-4)
    close(torch.cat([rank["outputs"] for rank in made]), outputs.detach())
    close(torch.cat([rank["inputs"] for rank in made]), inputs.grad)
    for name, value in reference.named_parameters():
        close(sum(rank["gradients"][name] for rank in made), value.grad)
    assert equal(made[0]["state"], made[1]["state"])
    for name, value in reference.state_dict().items():
        close(made[0]["state"][name], value)


# The least cosine of logits that each format may have on models of a few thousand random weights.
FORMATS = {
    "onnx": 0.99999,
    "openvino": 0.99999,
    "torchscript": 0.99999,
    "openvino-bf16": 0.995,
    "onnx-int8": 0.98,
    "openvino-int8": 0.98,
}


@pytest.mark.parametrize("name", MODELS)
def test_an_export_answers_as_the_model_does(weights: Path, tmp_path: Path, name: str) -> None:
    model = _model(name, weights)
    torch.manual_seed(0)
    kind, shape = architecture(model.architecture), preprocess_for(model).tensor_shape
    module = kind.build(model, CLASSES).train()
    inputs = torch.rand(5, *shape)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for _ in range(3):
        F.cross_entropy(module(inputs), torch.arange(5) % 3).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    kind.save(module.eval(), tmp_path)
    loaded = kind.load(tmp_path).eval()
    with torch.inference_mode():
        expected = loaded(inputs).numpy()
    apart = towers(model.architecture, loaded)
    head = None if apart is None else Head(CLASSES, apart.weight.numpy())
    part = loaded if apart is None else apart.image
    transformer = model.architecture in ("vit", "clip")
    source = Source(part, shape, inputs.numpy(), tmp_path, embeds=apart is not None, transformer=transformer)
    for format, least in FORMATS.items():
        (tmp_path / format).mkdir()
        engine = opener(format)(exporter(format)(source, tmp_path / format), shape, 1, 2)
        for count in (1, 5):
            outputs = engine.run(inputs[:count].numpy())
            logits = outputs if head is None else head.logits(outputs)
            assert least_cosine(logits, expected[:count]) > least, format
            if least > 0.999:
                np.testing.assert_allclose(logits, expected[:count], atol=2e-4)
    # What only the text needs isn't carried along.
    kept = {tensor.name for tensor in load_onnx(source.onnx).graph.initializer}
    assert kept
    assert not [tensor for tensor in kept if "text_model" in tensor]


def test_a_text_tower_embeds_as_the_model_does(weights: Path, tmp_path: Path) -> None:
    model = _model("clip, prompts", weights)
    module = architecture("clip").build(model, CLASSES).eval()
    apart = towers("clip", module)
    assert apart is not None
    texts = Texts(tmp_path, export_text(apart, ["{}"], tmp_path))
    said = ["a", "sitting at a table", "Ünïcode 🏃 läuft", ""]
    together = texts.encode(said)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    tokenizer: Any = module.tokenizer
    for text, row in zip(said, together, strict=True):
        tokens: torch.Tensor = tokenizer(text, truncation=True, max_length=apart.context, return_tensors="pt")[
            "input_ids"
        ]
        with torch.inference_mode():
            expected = apart.text(tokens)[0].numpy()
        # Neither the length of its neighbours nor what fills it up matters.
        np.testing.assert_allclose(row, expected, atol=1e-5)
        np.testing.assert_allclose(texts.encode([text])[0], row, atol=1e-5)
    long = "word " * 200
    assert texts.too_long([*said, long]) == len(said) and texts.too_long(said) is None
    with pytest.raises(DataError, match=r"'word word .*: is too long: this model reads"):
        texts.encode([long])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("pictures"))


WHOLE: dict[str, dict[str, Any]] = {
    "resnet50": {"architecture": "resnet50", "pretrained": "WEIGHTS", "dimensions": {"imageSize": 32}},
    "clip": {"architecture": "clip", "dimensions": {**DEEP, "imageSize": 32}},
    "clip-linear": {"architecture": "clip", "dimensions": {**DEEP, "imageSize": 32}, "clip": {"head": "linear"}},
}


@pytest.mark.parametrize(("name", "workers"), [("resnet50", 1), ("clip", 2), ("clip-linear", 1)])
def test_a_folder_for_each_class_becomes_a_bundle_that_answers(
    name: str, workers: int, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    declared = WHOLE[name]
    if "pretrained" in declared:
        declared = {**declared, "pretrained": str(weights / name)}
    strategy = {"strategy": "ddp", "workers": workers} if workers > 1 else {}
    training = {"epochs": 2, "learningRate": 1e-3, **strategy}
    formats = ["onnx", "openvino-int8", "torchscript"] if name == "clip" else ["onnx"]
    export = {"formats": formats, "accuracyDrop": 0.2}
    done = vitruvian("run", "-f", declare(tmp_path, pictures, model=declared, training=training, export=export))
    assert done.returncode == 0, done.stderr
    assert all(format in done.stdout for format in formats)
    bundle = open_bundle(tmp_path / "artifacts")
    assert bundle.info.architecture == WHOLE[name]["architecture"]
    exact = next(record for record in bundle.info.exports if record.format == "onnx")
    assert exact.max_difference < 1e-3
    assert exact.top1_agreement == 1
    assert [record.format for record in bundle.info.exports] == formats
    # OpenVINO's weights are plain numbers in a .bin.
    pickled = (".pt", ".pkl", ".pth") if name == "clip" else (".bin", ".pt", ".pkl", ".pth")
    assert not [path for path in bundle.folder.rglob("*") if path.suffix in pickled]
    Predictor.open(bundle).warm_up()
    if name == "clip":
        more = ("--format", "onnx-int8", "--format", "openvino", "--accuracy-drop", "0.5")
        done = vitruvian("export", bundle.folder, *more, "--out", tmp_path / "more", "--images", pictures)
        assert done.returncode == 0, done.stderr
        found = Exported.model_validate_json((tmp_path / "more" / "exports.json").read_bytes())
        assert [record.format for record in found.exports] == ["onnx-int8", "openvino"]
        assert found.exports[1].top1_agreement == 1
        assert found.exports[1].golden == pytest.approx(exact.golden, abs=1e-3)
        assert found.trained is not None
        assert all((tmp_path / "more" / record.path).is_file() for record in found.exports)
        assert found.text is not None and (tmp_path / "more" / found.text.tokenizer).is_file()
        assert "accuracy" in done.stdout
        done = vitruvian("export", bundle.folder, "--out", tmp_path / "unlabelled")
        assert done.returncode == 0, done.stderr
        columns = next(line for line in done.stdout.splitlines() if line.startswith("format"))
        assert columns.split()[-1] == "agreement"
    if workers == 1:
        # The bundle's own folder, or what its classifier made, is where another one can begin.
        address = str(bundle.folder) if name == "resnet50" else f"file://{tmp_path}/artifacts"
        head = {"clip": WHOLE[name]["clip"]} if "clip" in WHOLE[name] else {}
        model = {"architecture": bundle.info.architecture, "pretrained": address, **head}
        made = str(tmp_path / "again")
        again = declare(tmp_path, pictures, name="again", model=model, training={"epochs": 1}, artifacts=made)
        done = vitruvian("run", "-f", again)
        assert done.returncode == 0, done.stderr
        assert open_bundle(tmp_path / "again").preprocess == bundle.preprocess


def test_a_pretrained_clip_answers_without_training(weights: Path, pictures: Path, tmp_path: Path) -> None:
    model = {"architecture": "clip", "pretrained": str(weights / "clip")}
    done = vitruvian("run", "-f", declare(tmp_path, pictures, model=model, training={"epochs": 0}))
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "artifacts")
    assert bundle.served.max_difference < 1e-3
    assert equal(load_file(bundle.folder / "model.safetensors"), load_file(weights / "clip" / "model.safetensors"))
    assert "Nothing was trained: the weights are the pretrained ones." in (bundle.folder / "README.md").read_text()
    assert "There is no epoch" in (bundle.folder / "report" / "report.html").read_text()
    Predictor.open(bundle).warm_up()


def test_the_best_point_between_pretrained_and_learnt_weights_is_published(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    def run(*points: float) -> Bundle:
        clip = {"unfreezeVisual": 1, "interpolation": list(points)}
        model = {"architecture": "clip", "pretrained": str(weights / "clip"), "clip": clip}
        done = vitruvian("run", "-f", declare(tmp_path, pictures, model=model, training={"epochs": 1}))
        assert done.returncode == 0, done.stderr
        return open_bundle(tmp_path / "artifacts")

    bundle = run(1, 0.5, 0)
    found = bundle.info.lineage["interpolation"]
    accuracy = found["validationAccuracy"]
    assert list(accuracy) == ["0", "0.5", "1"]
    assert found["chosen"] == min(map(float, accuracy), key=lambda point: (-accuracy[f"{point:g}"], point))
    assert f"| 0.5 | {accuracy['0.5']:.3f} |" in (bundle.folder / "README.md").read_text()
    (history,) = (tmp_path / "artifacts" / "stages" / "train").glob("*/history.json")
    assert accuracy["1"] == json.loads(history.read_text())[0]["validationAccuracy"]
    # Another choice of points needs no other training.
    values = load_file(run(0).folder / "model.safetensors")
    assert equal(values, load_file(weights / "clip" / "model.safetensors"))
    assert not equal(values, load_file(run(1).folder / "model.safetensors"))
    assert len(list((tmp_path / "artifacts" / "checkpoints").iterdir())) == 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """An empty S3 prefix, as moto keeps what others wrote, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with moto() as server:
        for name, value in server.settings().items():
            monkeypatch.setenv(name, value)
        boto3.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)
        yield open_store(f"s3://{BUCKET}/{tmp_path.name}")


def test_weights_in_s3_are_fetched_whole_and_known_by_their_content(
    bucket: Store, weights: Path, tmp_path: Path
) -> None:
    for file in (weights / "clip").iterdir():
        bucket.upload(file.name, file)
    bucket.put("onnx/model.onnx", b"not wanted")
    model = Model.model_validate({"architecture": "clip", "pretrained": bucket.url})
    here = model.model_copy(update={"pretrained": str(weights / "clip")})
    kind = architecture("clip")
    assert preprocess_for(model) == preprocess_for(here)
    assert equal(kind.build(model, CLASSES).state_dict(), kind.build(here, CLASSES).state_dict())
    (kept,) = (tmp_path / "cache").rglob("model.safetensors")
    assert not list((tmp_path / "cache").rglob("model.onnx"))
    # A copy that was damaged since is fetched anew.
    kept.write_bytes(b"x" * kept.stat().st_size)
    assert equal(kind.build(model, CLASSES).state_dict(), kind.build(here, CLASSES).state_dict())
    before = weights_version(model)
    assert before == weights_version(model)
    bucket.put("tokenizer_config.json", b"{}")
    assert weights_version(model) != before


def _of_torchvision(file: Path) -> nn.Module:
    """Save a small ResNet as one does that has torchvision; return it."""
    resnet = pytest.importorskip("torchvision.models.resnet", reason="needs torchvision: it comes with open_clip_torch")
    torch.manual_seed(5)
    module: nn.Module = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    save_file(module.state_dict(), file)
    return module


def test_training_begins_at_a_resnet_of_torchvision_and_keeps_its_frozen_stages(pictures: Path, tmp_path: Path) -> None:
    theirs = _of_torchvision(tmp_path / "resnet.safetensors").state_dict()
    model = {
        "architecture": "resnet50",
        "pretrained": str(tmp_path / "resnet.safetensors"),
        "dimensions": {"imageSize": 32},
        "freezeLayers": 2,
    }
    classifier = declare(tmp_path, pictures, model=model, training={"epochs": 1, "learningRate": 1e-3})
    for command in ("plan", "run"):
        done = vitruvian(command, "-f", classifier)
        assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "artifacts")
    ours = load_file(bundle.folder / "model.safetensors")
    kept = "resnet.encoder.stages.{}.layers.0.layer.0.convolution.weight"
    assert torch.equal(ours["resnet.embedder.embedder.convolution.weight"], theirs["conv1.weight"])
    assert torch.equal(ours[kept.format(1)], theirs["layer2.0.conv1.weight"])
    assert not torch.equal(ours[kept.format(2)], theirs["layer3.0.conv1.weight"])
    assert json.loads((bundle.folder / "preprocess.json").read_text())["mean"][0] == 0.485


def test_a_resnet_of_torchvision_in_s3_is_known_by_its_beginning_and_fetched_alone(
    bucket: Store, tmp_path: Path
) -> None:
    theirs = _of_torchvision(tmp_path / "own.safetensors").state_dict()
    bucket.upload("own.safetensors", tmp_path / "own.safetensors")
    kind = architecture("resnet50")
    named = Model.model_validate({"architecture": "resnet50", "pretrained": bucket.address("own.safetensors")})
    whole = named.model_copy(update={"pretrained": bucket.url})
    assert preprocess_for(named) == preprocess_for(whole)
    assert not (tmp_path / "cache").exists()
    assert weights_version(named) == weights_version(whole)
    before = weights_version(named)
    bucket.put("other.safetensors", b"not wanted")
    bucket.put("config.json", b"{}")
    built = kind.build(named, CLASSES).state_dict()
    assert torch.equal(built["inner.resnet.embedder.embedder.convolution.weight"], theirs["conv1.weight"])
    assert not list((tmp_path / "cache").rglob("other.safetensors"))
    assert weights_version(named) == before
    with pytest.raises(SpecError, match=r"own\.pth is pickled; weights must be safetensors"):
        preprocess_for(named.model_copy(update={"pretrained": bucket.address("own.pth")}))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ((), "config.json"),
        (("config.json",), "there are no weights here; give an address with config.json and model.safetensors"),
        (("config.json", "pytorch_model.bin"), "pytorch_model.bin is pickled"),
    ],
)
def test_an_address_without_weights_is_one_clear_line(
    bucket: Store, weights: Path, files: tuple[str, ...], line: str
) -> None:
    for name in files:
        bucket.put(name, (weights / "clip" / "config.json").read_bytes())
    with pytest.raises(SpecError) as refused:
        architecture("clip").build(Model.model_validate({"architecture": "clip", "pretrained": bucket.url}), CLASSES)
    assert line in str(refused.value) and bucket.url in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
