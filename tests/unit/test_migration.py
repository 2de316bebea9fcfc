"""An existing system's configs become a Classifier that trains the same, and nothing of them is lost in silence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from tests.configs import (
    CLASS_MAPPING,
    CLIP_YAML,
    CONFIG_PY,
    MAIN_PY,
    NOTEBOOK,
    PREPROCESSING,
    PROCESSOR,
    TESTING,
    TRAINING,
    VIT_CONFIG,
)
from vitruvian import spec
from vitruvian.cli import app
from vitruvian.errors import SpecError
from vitruvian.migration import summary
from vitruvian.migration.convert import Imported, convert
from vitruvian.migration.read import Config, read, read_flags
from vitruvian.migration.systems import FLAGS, SYSTEMS
from vitruvian.migration.table import Habit, Key, Kind, System, Whole

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT.parent / "shared" / "requirements.md"
PAGE = ROOT / "docs" / "coming-from.md"

LAUNCHER = ["--distributed_mode", "ddp", "--nproc_per_node", "4", "--push_to_hub", "--lr=2e-6"]
LAUNCHER += ["--export_format", "onnx", "tensorrt"]


def imported(*files: tuple[str, str], flags: list[str] | None = None, name: str | None = None) -> Imported:
    """Return what comes of files, each its path and its text, and of flags."""
    configs = [read(where, text) for where, text in files]
    if flags:
        configs.append(read_flags(flags, {key.path: key.kind for key in FLAGS.keys}))
    return convert(configs, SYSTEMS, name)


def refusal(*files: tuple[str, str], flags: list[str] | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        imported(*files, flags=flags)
    return str(caught.value)


REAL: list[tuple[str, list[tuple[str, str]], list[str], str, str]] = [
    (
        "vit on aws",
        [("preprocessing_config.json", PREPROCESSING), ("training_config.json", TRAINING), ("t.json", TESTING)],
        [],
        """
        metadata: {name: human-pose}
        spec:
          data: {source: data/human-pose, format: images, testSize: 0.25, validationSize: 0.1}
          model: {architecture: vit, pretrained: google/vit-base-patch16-224, freezeLayers: 2}
          training: {gpusPerWorker: 1, epochs: 8, batchSize: 32, learningRate: 5.0e-5, earlyStopping: null}
          gates: [{metric: accuracy, atLeast: 0.78}, {metric: precision, atLeast: 0.75}]
          artifacts: s3://pose-models/vit/best
        """,
        "huggingface_dataset_name output_dir directories_config.input_dir directories_config.train_dir"
        " directories_config.clean_train_dir_before_training directories_config.training_curve_path input_dir "
        "directories_config.best_model_path trained_model_path metrics_output_file training_config.enable_gpu "
        "push_model_s3.bucket_name",
    ),
    (
        "vit on aws without a push",
        [("testing_config.json", TESTING.replace('"enabled": true', '"enabled": false'))],
        [],
        """
        metadata: {name: human-pose}
        spec:
          data: {source: data/human-pose, format: images}
          model: {architecture: vit}
          training: {earlyStopping: null}
        """,
        "input_dir trained_model_path metrics_output_file push_model_s3.enabled "
        "push_model_s3.conditions push_model_s3.bucket_name",
    ),
    (
        "heatmaps",
        [("prediction.ipynb", NOTEBOOK)],
        [],
        """
        metadata: {name: vitpose}
        spec:
          data: {source: data/unseen, format: heatmaps}
          model: {architecture: heatmap-cnn}
        """,
        "",
    ),
    (
        "bodybuilding",
        [
            ("config.py", CONFIG_PY),
            ("main.py", MAIN_PY),
            ("mappings/class_mapping.json", CLASS_MAPPING),
            ("mappings/poses.json", '{"1": {"name": "Front Lat Spread"}}'),
            ("mappings/db_labels.json", json.dumps({f"{i}.jpg": 1 for i in range(1000)})),
        ],
        [],
        """
        metadata: {name: bodybuilding-poses}
        spec:
          data: {source: data/bodybuilding-poses, format: images, validationSize: 0.2}
          model: {architecture: resnet50, pretrained: microsoft/resnet-50}
          training:
            epochs: 100
            batchSize: 64
            learningRate: 1.0e-3
            weightDecay: 0.0
            augmentation: none
            earlyStopping: {patience: 10}
        """,
        "MODEL_PATH download_images_from_s3 class_to_idx idx_to_class classes mappings/poses.json "
        "mappings/db_labels.json 1.name",
    ),
    (
        "fargate",
        [("ml-models/vit/config.json", VIT_CONFIG), ("ml-models/vit/preprocessor_config.json", PROCESSOR)],
        [],
        """
        metadata: {name: human-pose-api}
        spec:
          data: {source: data/human-pose-api, format: images}
          model: {architecture: vit, pretrained: ml-models/vit}
        """,
        "_name_or_path architectures hidden_size id2label label2id image_size num_hidden_layers "
        "torch_dtype do_normalize do_resize image_mean size",
    ),
    (
        "clip",
        [("configs/training_config.yaml", CLIP_YAML)],
        LAUNCHER,
        """
        metadata: {name: clip-har-v2}
        spec:
          data: {source: data/clip-har-v2, format: images}
          model:
            architecture: clip
            pretrained: openai/clip-vit-large-patch14
            clip: {head: prompts, unfreezeVisual: 24}
          training:
            strategy: ddp
            workers: 4
            gpusPerWorker: 1
            epochs: 10
            batchSize: 256
            learningRate: 2.0e-6
            earlyStopping: null
          export: {formats: [onnx, tensorrt]}
        """,
        "lr unfreeze_visual batch_size no_mixed_precision experiment_name use_mlflow no_wandb push_to_hub",
    ),
    (
        "clip by its defaults",
        [],
        ["--max_epochs", "15"],
        """
        metadata: {name: clip-har}
        spec:
          data: {source: data/clip-har, format: images}
          model: {architecture: clip, pretrained: openai/clip-vit-base-patch16, clip: {head: prompts}}
          training: {strategy: none, epochs: 15, batchSize: 256, learningRate: 3.0e-6, earlyStopping: null}
        """,
        "distributed_mode",
    ),
]


@pytest.mark.parametrize(("files", "flags", "wanted", "named"), [case[1:] for case in REAL], ids=[c[0] for c in REAL])
def test_a_systems_configs_become_the_classifier_that_trains_the_same(
    files: list[tuple[str, str]], flags: list[str], wanted: str, named: str
) -> None:
    made = imported(*files, flags=flags)
    head = {"apiVersion": "vitruvian.dev/v1alpha1", "kind": "Classifier"}
    assert yaml.safe_load(made.text) == {**head, **yaml.safe_load(wanted)}
    assert spec.parse(made.text) == made.classifier
    about = {key for keys, _ in made.remarks for key in keys.split(", ")}
    assert about == set(named.split())
    comments = " ".join(line for line in made.text.splitlines() if line.startswith("#"))
    for key in [*named.split(), *(key for key, _ in made.todo)]:
        assert key in comments, f"{key} isn't named in the file"


def test_what_is_not_implemented_yet_is_a_line_to_take_in_later() -> None:
    text = imported(("a.json", PREPROCESSING)).text
    line = next(line for line in text.splitlines() if "hf://" in line)
    assert yaml.safe_load(line.removeprefix("#")) == {"spec.data.source": "hf://Bingsu/Human_Action_Recognition"}


@pytest.mark.parametrize("value", ["posedb", "huggingface"])
def test_formats_that_are_called_not_implemented_are_refused_by_the_spec(value: str) -> None:
    assert any(spec.unimplemented(spec.Data.model_validate({"source": "data", "format": value})))


REFUSED = [
    ("empty", [("a.json", "")], "a.json: is empty; "),
    ("blank", [("a.yaml", " \n")], "a.yaml: is empty; "),
    ("a list", [("a.json", "[1, 2]")], "a.json: is not a map of keys and values; "),
    ("a number", [("a.yaml", "7")], "a.yaml: is not a map of keys and values; "),
    ("broken JSON", [("a.json", '{"test_size": 0.2,}')], "a.json:1:19: is not valid JSON: "),
    ("broken YAML", [("a.yaml", "lr: [3")], "a.yaml:1:7: is not valid YAML: "),
    ("broken Python", [("config.py", "EPOCHS =")], "config.py:1: is not valid Python: "),
    ("a zero byte in Python", [("config.py", "EPOCHS = 3\0")], "config.py: is not valid Python: "),
    ("a notebook without cells", [("a.ipynb", '{"data_dir": 1}')], "a.ipynb: is not a notebook"),
    ("a control character", [("a.yaml", "lr: \x07")], "a.yaml"),
    ("a key twice in JSON", [("a.json", '{"test_size": 0.2, "test_size": 0.3}')], "a.json: the key 'test_size' stands"),
    ("a key twice in YAML", [("a.yaml", "lr: 1\nlr: 2")], "a.yaml:2:1: is not valid YAML: the key 'lr' stands twice"),
    ("two documents", [("a.yaml", "lr: 1\n---\nlr: 2")], "a.yaml: holds 2 documents; "),
    ("deep", [("a.json", '{"a":' * 9000 + "1" + "}" * 9000)], "a.json: "),
    ("endless", [("a.yaml", "lr: &a {b: *a}")], "a.yaml:1:5: is not valid YAML: "),
    ("exploding", [("a.yaml", "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}1]\n" for i in range(9))[0:])], "a.yaml"),
    ("no config at all", [("a.json", '{"name": "app", "version": 3}')], "a.json: is not a config of a system"),
    ("of two systems", [("a.json", PREPROCESSING), ("b.yaml", "lr: 1.0e-4")], "b.yaml: belongs to another system"),
    ("a lone name", [("x.yaml", "lr: 0.1")], "x.yaml: lr alone doesn't tell that this is a config of Human Action Re"),
    ("a lone name twice", [("x.yaml", "a: {lr: 1}"), ("y.yaml", "b: {lr: 1}")], "x.yaml: lr alone doesn't tell that"),
    (
        "a number for all layers",
        [("a.yaml", "lr: 0.1\nunfreeze_visual: 4")],
        "a.yaml: unfreeze_visual: true or false is wanted, not a whole number; a number belongs in "
        "spec.model.clip.unfreezeVisual of the Classifier",
    ),
    ("a number for true", [("a.yaml", "lr: 0.1\nuse_mlflow: 4")], "a.yaml: use_mlflow: true or false is wanted, not a"),
    ("of either", [("a.json", '{"output_dir": "x"}')], "a.json: may be a config of Human Pose Classifier"),
    (
        "two files that differ",
        [("a/x.json", '{"test_size": 0.2, "input_dir": "x"}'), ("b/x.json", '{"test_size": 0.3}')],
        "b/x.json: test_size differs from a/x.json; keep one of them",
    ),
    (
        "one file that differs",
        [("a.yaml", "port: 8080\nlr: 0.1\nb: {lr: 0.2}")],
        "a.yaml: b.lr differs from a.yaml as lr; ",
    ),
    (
        "text for a number",
        [("a.json", '{"test_size": "many", "input_dir": "x"}')],
        "a.json: test_size: a number is wanted, not a text",
    ),
    (
        "true for a number",
        [("a.json", '{"test_size": true, "input_dir": "x"}')],
        "a.json: test_size: a number is wanted, not true or",
    ),
    (
        "a map for a text",
        [("a.json", '{"huggingface_dataset_name": {"a": 1}, "test_size": 0.2}')],
        "a.json: huggingface_dataset_name: a t",
    ),
    ("half a layer", [("a.json", '{"model_params": {"nb_layers_to_freeze": 2.5}}')], "a.json: model_params.nb_layers_"),
    ("13 layers", [("a.json", '{"model_params": {"nb_layers_to_freeze": 13}}')], "a.json: model_params.nb_layers_to_"),
    (
        "too large",
        [("a.json", '{"test_size": 1e400, "input_dir": "x"}')],
        "a.json: test_size: the number is out of range; ",
    ),
    (
        "too many digits",
        [("a.json", f'{{"input_dir": "x", "test_size": {"9" * 400}}}')],
        "a.json: test_size: a number is wanted; ",
    ),
    ("digits without end", [("a.json", f'{{"test_size": {"9" * 9000}}}')], "a.json: holds a value that can't be read"),
    ("many epochs", [("a.yaml", "lr: 0.1\nmax_epochs: 5000000000")], "a.yaml: max_epochs: spec.training.epochs: "),
    (
        "all for the test",
        [("a.json", '{"test_size": 1.0, "input_dir": "x"}')],
        "a.json: test_size: spec.data.testSize: input should be less",
    ),
    (
        "no share",
        [("a.json", '{"validation_size": 0, "input_dir": "x"}')],
        "a.json: validation_size: spec.data.validationSize: ",
    ),
    (
        "no such mode",
        [("a.yaml", "lr: 0.1\ndistributed_mode: horovod")],
        "a.yaml: distributed_mode: is no way to distribute; ",
    ),
    (
        "no such strength",
        [("a.yaml", "lr: 0.1\naugmentation_strength: wild")],
        "a.yaml: augmentation_strength: is no strength",
    ),
    (
        "no such format",
        [("a.yaml", "lr: 0.1\nexport_format: [coreml]")],
        "a.yaml: export_format: has a format that isn't known; ",
    ),
    (
        "computed",
        [("config.py", "EPOCHS = 9\nBATCH_SIZE = 2 ** n")],
        "config.py: BATCH_SIZE: is known only when the file runs; ",
    ),
    (
        "on a condition",
        [("config.py", "BATCH_SIZE = 8\nif GPU:\n    EPOCHS = 9")],
        "config.py: EPOCHS: is known only when the file runs",
    ),
    (
        "weights of others",
        [("config.json", '{"model_type": "swin", "image_size": 224}')],
        "config.json: model_type: no arch",
    ),
    (
        "a surrogate",
        [("a.json", '{"huggingface_dataset_name": "\\ud800", "test_size": 0.2}')],
        "a.json: huggingface_dataset_name: the text",
    ),
    (
        "no metric",
        [("a.json", TESTING.replace('"accuracy"', '"auc"'))],
        "a.json: push_model_s3.conditions: the metric 'auc' can't be a gate; choose from accuracy, precision, recall, ",
    ),
    (
        "a condition of nothing",
        [("a.json", TESTING.replace('"metric": "accuracy", ', ""))],
        "a.json: push_model_s3.conditions: a condition without a metric can't be a gate; choose from accuracy, ",
    ),
    (
        "percent",
        [("a.json", TESTING.replace("0.78", "78"))],
        "a.json: push_model_s3.conditions: the threshold of accuracy is no number from 0 to 1; ",
    ),
    (
        "no bucket",
        [("a.json", TESTING.replace("pose-models", "Pose Models"))],
        "a.json: push_model_s3.bucket_name: is no",
    ),
]


@pytest.mark.parametrize(("files", "line"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_no_config_is_refused_in_one_line(files: list[tuple[str, str]], line: str) -> None:
    said = refusal(*files)
    assert said.startswith(line), said
    assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--lr", "1e-4", "--lr", "1e-5"], "the flags: --lr stands twice; "),
        (["--lr", "1e-4", "1e-5"], "the flags: --lr has 2 values; "),
        (["--lr"], "the flags: lr: a number is wanted, not true or false; "),
        (["--max_epochs", "many"], "the flags: max_epochs: a whole number is wanted, not a text; "),
        (["--unfreeze_text", "perhaps"], "the flags: unfreeze_text: true or false is wanted, not a text; "),
        (
            ["--unfreeze_text", "4"],
            "the flags: unfreeze_text: true or false is wanted, not a whole number; a number belongs in "
            "spec.model.clip.unfreezeText of the Classifier",
        ),
        (["--verbose"], "the flags: is not a config of a system that is known here; "),
    ],
)
def test_flags_that_mean_nothing_are_refused(flags: list[str], line: str) -> None:
    assert refusal(flags=flags).startswith(line)


def test_every_wrong_key_is_told_at_once() -> None:
    said = refusal(
        ("a.json", '{"test_size": "x", "validation_size": []}'), ("b.json", '{"test_size": null, "input_dir": 1}')
    )
    assert [line.split(": ")[1] for line in said.splitlines()] == ["test_size", "validation_size"]


def remarks(made: Imported) -> dict[str, str]:
    return {key: what for keys, what in made.remarks for key in keys.split(", ")}


WRITE = " is the place here; write it yourself"


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (
            '{"test_size": 0.2, "validaton_size": 0.1, "input_dir": "x"}',
            "validaton_size",
            "did you mean 'validation_size'?",
        ),
        (
            '{"model_params": {"model_nam": "x"}, "test_size": 0.1, "input_dir": "x"}',
            "model_params.model_nam",
            "'model_params.model_name'?",
        ),
        (
            '{"test_size": 0.2, "learning_rat": 1, "input_dir": "x"}',
            "learning_rat",
            "did you mean 'training_config.learning_rate'?",
        ),
        (
            '{"test_size": 0.2, "colour": "red", "input_dir": "x"}',
            "colour",
            "no key of Human Pose Classifier (ViT, AWS)",
        ),
        (
            TESTING.replace('"threshold": 0.78', '"threshold": 0.78, "op": ">"'),
            "push_model_s3.conditions[0].op",
            "no key",
        ),
        (CLIP_YAML + "optimizer: {weight_decay: 0.1}", "optimizer.weight_decay", f"spec.training.weightDecay{WRITE}"),
        (CLIP_YAML + "epoch: 4", "epoch", f"spec.training.epochs{WRITE}"),
        (CLIP_YAML + "data: {seed: 4}", "data.seed", f"spec.data.seed{WRITE}"),
        (CLIP_YAML + "seed: 4", "seed", f"spec.data.seed or spec.training.seed{WRITE}"),
        (CLIP_YAML + "lora: {rank: 4}", "lora.rank", f"spec.model.lora.rank{WRITE}"),
        (CLIP_YAML + "rank: 4", "rank", "no key"),
        (CONFIG_PY + "LABEL_SMOOTHING = 0.1", "LABEL_SMOOTHING", f"spec.training.labelSmoothing{WRITE}"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one_or_its_field(text: str, key: str, said: str) -> None:
    suffix = "json" if text.startswith("{") else "py" if text.startswith(CONFIG_PY) else "yaml"
    assert said in remarks(imported((f"a.{suffix}", text)))[key]


HIDDEN = "s3cr3t-v4lue"
SECRETS: list[dict[str, Any]] = [
    {"aws_secret_access_key": HIDDEN},
    {"AWS_ACCESS_KEY_ID": HIDDEN},
    {"aws": {"secretAccessKey": HIDDEN, "sessionToken": HIDDEN}},
    {"hf_token": HIDDEN},
    {"db": {"password": HIDDEN}},
    {"wandbApiKey": HIDDEN},
    {"tracking_uri": f"https://me:{HIDDEN}@mlflow.example.com"},
    {"output_dir": f"s3://key:{HIDDEN}@bucket/prefix"},
    {"notes": [{"id": f"AKIA{'A' * 16} {HIDDEN}"}]},
]


@pytest.mark.parametrize("secret", SECRETS, ids=[next(iter(each)) for each in SECRETS])
def test_a_secret_is_never_copied_but_told_where_it_belongs(secret: dict[str, Any]) -> None:
    made = imported(("a.yaml", yaml.safe_dump({"lr": 1e-4, "max_epochs": 3, **secret})))
    assert HIDDEN not in made.text + repr(made.remarks)
    (told,) = [key for key, what in made.remarks if "AWS_SECRET_ACCESS_KEY" in what]
    assert next(iter(secret)) in told


def test_no_value_of_a_wrong_type_is_repeated() -> None:
    assert HIDDEN not in refusal(("a.yaml", f"lr: {HIDDEN}\nmax_epochs: [{HIDDEN}]\noutput_dir: {{a: {HIDDEN}}}"))


def test_the_files_that_only_have_a_name_are_told_key_by_key() -> None:
    inference = ("config/inference_config.json", json.dumps({"api_url": "http://x", "api_token": HIDDEN}))
    made = imported(("config/preprocessing_config.json", PREPROCESSING), inference)
    assert "vitruvian serve" in remarks(made)["config/inference_config.json"]
    assert {"api_url", "api_token"} <= remarks(made).keys()
    assert HIDDEN not in made.text


def test_a_name_that_no_classifier_can_have_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^--name: metadata\.name: "):
        imported(("a.json", PREPROCESSING), name="My Classifier")


def test_texts_that_look_like_numbers_stay_texts() -> None:
    made = imported(("a.yaml", "output_dir: '1e-3'\nlr: 1e-3"))
    assert made.classifier.artifacts == "1e-3"
    assert made.classifier.spec.training.learning_rate == 1e-3


def test_a_batch_for_each_gpu_becomes_one_over_all_workers() -> None:
    made = imported(("a.yaml", "batch_size: 64\ndistributed_mode: fsdp"))
    assert made.classifier.spec.training.batch_size == 64
    assert "multiply it by their number" in remarks(made)["batch_size"]
    counted = imported(("a.yaml", "batch_size: 64\ndistributed_mode: ddp\nnproc_per_node: 4"))
    assert counted.classifier.spec.training.batch_size == 256
    assert remarks(counted)["batch_size"] == "64 for each of 4 processes; spec.training.batchSize is all of them, 256"
    assert "batch_size" not in remarks(imported(("a.yaml", "batch_size: 64\nlr: 0.1")))
    exporter = imported(flags=["--batch_size", "16", "--validate"])
    assert "an exported model" in remarks(exporter)["batch_size"]
    assert exporter.classifier.spec.training.batch_size == 256


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for path, value in values.items():
        part = made
        *above, last = path.split(".")
        for step in above:
            part = part.setdefault(step, {})
        part[last] = value
    return made


SAMPLES: dict[Kind, Any] = {
    Kind.text: "vit",
    Kind.integer: 7,
    Kind.number: 0.37,
    Kind.flag: True,
    Kind.list: ["onnx"],
    Kind.any: "anything",
}
SPECIAL = {
    "distributed_mode": "fsdp",
    "augmentation_strength": "strong",
    "push_model_s3.conditions": [{"metric": "f1", "threshold": 0.5}],
    "push_model_s3.bucket_name": "models",
    "download_images_from_s3": ["models"],
    "model_type": "resnet",
}
EVERY = [(system, key) for system in SYSTEMS for key in system.keys if "[]" not in key.path]


def said(made: Imported) -> dict[str, Any]:
    """Return what a Classifier says, and not what it leaves to defaults."""
    return made.classifier.model_dump(exclude_unset=True)


def listed(system: System) -> list[Key | Whole | Habit]:
    return [*system.keys, *system.wholes, *system.habits]


@pytest.mark.parametrize(("system", "key"), EVERY, ids=[f"{system.name} {key.path}" for system, key in EVERY])
def test_no_key_is_dropped_in_silence(system: System, key: Key) -> None:
    values = _nested({key.path: SPECIAL.get(key.path, SAMPLES[key.kind])})
    without = convert([Config("a.yaml", {})], [_always(system)])
    made = convert([Config("a.yaml", values)], [_always(system)])
    told = {word for keys, _ in made.remarks for word in keys.split(", ")}
    assert key.path in told or said(made) != said(without)
    assert not [what for _, what in (*made.todo, *made.remarks) if ": " in what]


def _always(system: System) -> System:
    """Return the system as one that wrote an empty file."""
    return replace(system, wholes=(Whole("a.yaml", "", ""),))


TEXTS = st.sampled_from(["data", "vit", "google/vit-base", "none", "ddp", "resnet", "s3://a/b", "1e-3", "null", "é 😀"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner), max_leaves=6
)
CONDITION = st.fixed_dictionaries(
    {"metric": st.sampled_from(["accuracy", "precision", "f1", "auc"]), "threshold": st.floats(-1, 2)}
)
RIGHT: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.text: TEXTS | st.text(max_size=30),
    Kind.integer: st.integers(0, 20) | st.integers(),
    Kind.number: st.floats(0, 1) | st.floats(),
    Kind.flag: st.booleans(),
    Kind.list: st.lists(st.sampled_from(["onnx", "tensorrt", "models"]) | CONDITION, max_size=3),
    Kind.any: JSON,
}


@st.composite
def subsets(draw: st.DrawFn) -> dict[str, Any]:
    system = draw(st.sampled_from(SYSTEMS))
    keys = [key for key in system.keys if "[]" not in key.path]
    chosen = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=12, unique_by=lambda key: key.path))
    return _nested({key.path: draw(RIGHT[key.kind]) for key in chosen})


@settings(max_examples=200, deadline=None)
@given(values=subsets(), extra=st.dictionaries(st.text(max_size=12), SCALARS, max_size=2))
def test_any_known_keys_give_a_valid_classifier_or_a_clear_refusal(
    values: dict[str, Any], extra: dict[str, Any]
) -> None:
    text = json.dumps({**extra, **values})
    try:
        made = imported(("dir/a.json", text))
    except SpecError as e:
        for line in str(e).splitlines():
            assert re.match(r"(dir/a.json|Human|CLIP|Classifier|--name)\S*.*: .+", line), line
        return
    assert spec.parse(made.text) == made.classifier
    assert made.text.splitlines() == made.text.removesuffix("\n").split("\n")


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60), suffix=st.sampled_from([".json", ".yaml", ".py", ".ipynb", ""]))
def test_any_text_is_read_or_refused(text: str, suffix: str) -> None:
    try:
        imported((f"a{suffix}", text))
    except SpecError as e:
        assert str(e).startswith("a")


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["spec", "import", *words])


def test_the_command_writes_a_file_that_is_valid_and_never_over_another(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(PREPROCESSING)
    out = tmp_path / "classifier.yaml"
    done = run(str(tmp_path / "a.json"), "--name", "yoga", "-o", str(out))
    assert done.exit_code == 0, done.output
    assert spec.load(out).name == "yoga"
    assert "output_dir" in done.stderr
    before = out.read_text()
    again = run(str(tmp_path / "a.json"), "-o", str(out))
    assert "is there already" in str(again.exception)
    assert out.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "classifier.yaml"]


def test_a_flag_of_another_system_is_told_where_it_goes(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("TRAINING_BATCH_SIZE: 16")
    refused = run(str(tmp_path / "params.yaml"), "--num_workers", "4")
    assert isinstance(refused.exception, SpecError)
    told = str(refused.exception)
    assert told.startswith("--num_workers: is no option of this command; an existing system's flags go behind --:")


def test_the_command_prints_only_the_file_on_standard_output(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lr: 1e-4\n")
    done = run(str(tmp_path / "a.yaml"), "--", "--distributed_mode", "ddp")
    assert spec.parse(done.stdout).spec.training.strategy == "ddp"


def test_the_command_tells_first_what_must_be_done_and_whose_configs_these_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CLIP_YAML)
    first, second, *others = run(str(tmp_path / "a.yaml")).stderr.splitlines()
    assert first.startswith("! edit spec.data.source: data/clip-har-v2 is only a guess; name the folder")
    assert second == "read as a config of Human Action Recognition using CLIP (CLIP_HAR_PROJECT); its keys:"
    assert others and all(re.fullmatch(r"  [^:]+: [^:]+", line) for line in others), others


def test_what_is_told_in_a_terminal_is_wrapped_to_its_width() -> None:
    made = imported(("a.json", PREPROCESSING), ("b.json", TRAINING), ("c.json", TESTING))
    for lines in (summary.todo, summary.notes):
        wrapped = list(lines(made, 80))
        assert max(map(len, wrapped)) < 80
        assert " ".join(map(str.strip, wrapped)) == " ".join(map(str.strip, lines(made, None)))


@pytest.mark.parametrize("words", [["FILE"], ["-f", "FILE"], ["--file", "FILE"]], ids=" ".join)
def test_a_file_is_validated_by_its_name_alone_or_behind_the_option_that_all_commands_have(
    words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "classifier.yaml"
    file.write_text(imported(("a.yaml", CLIP_YAML)).text)
    done = CliRunner().invoke(app, ["spec", "validate", *(str(file) if word == "FILE" else word for word in words)])
    assert (done.exit_code, "clip-har-v2 is valid" in " ".join(done.output.split())) == (0, True)


@pytest.mark.parametrize("words", [[], ["a.yaml", "-f", "a.yaml"]], ids=["none", "two"])
def test_validate_without_a_file_or_with_two_is_refused_in_one_line(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["spec", "validate", *words])
    assert isinstance(done.exception, SpecError)
    assert str(done.exception) == "spec validate: takes one file, as FILE or as -f FILE; give one of them"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe\x00\x01", "can't be read"), (b"\x00" * 64, "a.json"), (None, "there is no such file")],
)
def test_what_is_no_text_is_refused_by_the_command(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    done = run(str(path))
    assert isinstance(done.exception, SpecError)
    assert said in str(done.exception) and "Classifier with -f" not in str(done.exception)


def test_every_option_of_the_five_systems_is_in_a_table() -> None:
    if not REQUIREMENTS.exists():
        pytest.skip("needs ../shared/requirements.md, which stays outside the project")
    wanted = set(re.findall(r"^- \*\*(S[0-4]\.\d+)\*\* \(opt\b", REQUIREMENTS.read_text(), re.MULTILINE))
    everything = set(re.findall(r"^- \*\*(S[0-4]\.\d+)\*\*", REQUIREMENTS.read_text(), re.MULTILINE))
    known = {one for system in SYSTEMS for entry in listed(system) for one in entry.ids}
    assert len(wanted) > 40
    assert not wanted - known
    assert not known - everything


def test_every_key_has_a_note_and_an_id() -> None:
    for system in SYSTEMS:
        paths = [key.path for key in system.keys]
        assert len(set(paths)) == len(paths)
        for entry in listed(system):
            assert entry.ids and (entry.note or (isinstance(entry, Key) and entry.to.startswith("spec.")))


def test_every_command_and_field_on_the_page_exists() -> None:
    page = PAGE.read_text()
    verbs = set(re.findall(r"`vitruvian ([a-z]+)", page))
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert {"run", "serve", "predict", "evaluate"} <= verbs <= known
    fields = {line.path for line in spec.fields()}
    for named in re.findall(r"`((?:spec|metadata)\.[A-Za-z.\[\]]+)", page):
        assert named in fields, named
    assert not re.findall(r"\bS[0-4]\.\d\d", page)
