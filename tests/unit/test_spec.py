"""The declaration says what it means, and refuses what it can't carry out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vitruvian import spec
from vitruvian.errors import SpecError

WHOLE = """
apiVersion: vitruvian.dev/v1alpha1
kind: Classifier
metadata: {name: yoga}
spec:
  data:
    source: s3://studio/yoga
    format: images
    testSize: 0.2
    validationSize: 0.2
    groupBy: subject
  model:
    architecture: vit
    pretrained: google/vit-base-patch16-224
    freezeLayers: 2
  training:
    strategy: ddp
    workers: 4
    epochs: 15
    learningRate: 3.0e-6
    earlyStopping: {patience: 10}
    checkpoints: {everySteps: 200, keep: 3}
  gates:
    - {metric: accuracy, atLeast: 0.79}
    - {metric: accuracy, versus: champion, atLeast: -0.005}
  export: {formats: [onnx], accuracyDrop: 0.01}
  artifacts: s3://models/yoga
"""


def test_the_designs_example_is_read_as_it_is_written() -> None:
    classifier = spec.parse(WHOLE)
    assert classifier.name == "yoga"
    assert classifier.artifacts == "s3://models/yoga"
    assert classifier.spec.training.learning_rate == 3e-6
    assert classifier.spec.gates[1] == spec.Gate.model_validate(
        {"metric": "accuracy", "versus": "champion", "atLeast": -0.005}
    )


def test_artifacts_lie_below_the_classifiers_name_by_default() -> None:
    assert spec.parse(WHOLE.replace("  artifacts: s3://models/yoga\n", "")).artifacts == "artifacts/yoga"


REFUSED = [
    ("a misspelled key", "epochs: 15", "epoch: 15", "spec.training.epoch: unknown key; did you mean 'epochs'?"),
    ("a key of another case", "testSize", "test_size", "spec.data.test_size: unknown key; did you mean 'testSize'?"),
    ("a foreign key", "groupBy: subject", "colour: red", "spec.data.colour: unknown key; valid here: source"),
    ("a missing key", "source: s3://studio/yoga", "seed: 1", "spec.data.source: is missing"),
    ("a wrong type", "epochs: 15", "epochs: many", "spec.training.epochs: input should be a valid integer, not 'many'"),
    ("a number as text", "freezeLayers: 2", "freezeLayers: '2'", "spec.model.freezeLayers: input should be a valid"),
    ("a share of nothing", "testSize: 0.2", "testSize: 0", "spec.data.testSize: input should be greater than 0"),
    ("a share of all", "validationSize: 0.2", "validationSize: 1.0", "spec.data.validationSize: input should be less"),
    ("a share beyond all", "testSize: 0.2", "testSize: 1.5", "spec.data.testSize: input should be less than 1"),
    ("no epoch", "epochs: 15", "epochs: 0", "training.epochs 0: only a clip with model.pretrained and head prompts"),
    ("fewer", "epochs: 15", "epochs: -1", "spec.training.epochs: input should be greater than or equal to 0"),
    ("an unknown metric", "metric: accuracy, at", "metric: acuracy, at", "did you mean 'accuracy'?"),
    ("an unknown architecture", "architecture: vit", "architecture: vt", "did you mean 'vit'?"),
    ("a bad name", "name: yoga", "name: My_Yoga", "metadata.name: 'My_Yoga' is no name: small letters, digits and"),
    ("a key twice", "epochs: 15", "epochs: 15\n    epochs: 16", "the key 'epochs' stands twice"),
    ("broken YAML", "{name: yoga}", "{name: yoga", "is not valid YAML"),
    ("several workers of none", "strategy: ddp", "strategy: none", "workers is 4 but strategy is none"),
    ("two documents", "kind: Classifier", "kind: Classifier\n---\nkind: Classifier", "is not valid YAML|2 documents"),
    ("formats as text", "[onnx]", "onnx", "spec.export.formats: input should be a valid tuple, not 'onnx'"),
    ("images for heatmaps", "format: images", "format: heatmaps", "model.architecture vit needs data.format images"),
    ("layers of a clip", "architecture: vit", "architecture: clip", "spec.model: freezeLayers is not for a clip; set"),
    ("a format twice", "[onnx]", "[onnx, onnx]", "spec.export: formats names one format twice"),
    ("GPUs", "epochs: 15", "epochs: 15\n    gpusPerWorker: 2", "spec.training.gpusPerWorker: input should be"),
    ("a percentage", "atLeast: 0.79", "atLeast: 79", "spec.gates[0].atLeast: input should be less than or equal to 1"),
    ("no number", "atLeast: 0.79", "atLeast: .nan", "spec.gates[0].atLeast"),
    ("an unfilled template", "s3://studio/yoga", "{{ DATA }}", "a key must be a text; is a value left out?"),
    ("a wrong tag", "epochs: 15", "epochs: !!int x", "holds a value that can't be read"),
    ("an empty whole number", "epochs: 15", "epochs: !!int ''", "holds a value that can't be read"),
    ("a text that can't be written", "s3://studio/yoga", '"\\ud800"', "holds a value that can't be read"),
    ("endless digits", "epochs: 15", f"epochs: 0x{'f' * 5000}", "input should be less than or equal to 1000000000"),
    ("an endless word", "architecture: vit", f"architecture: {'x' * 5000}", f"'{'x' * 99}… is not one of vit, clip"),
    (
        "aliases of aliases",
        "metadata: {name: yoga}",
        "metadata: {name: yoga, a: &a [1,1,1,1,1,1,1,1,1], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a],"
        " c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c],"
        " e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]}",
        "aliases make more than 100,000 values of it",
    ),
    ("a list", "apiVersion", "- apiVersion", "is not valid YAML"),
    ("an empty group", "groupBy: subject", "groupBy: ''", "spec.data.groupBy"),
    ("no weights", "pretrained: google/vit-base-patch16-224", "pretrained: ''", "spec.model.pretrained: string should"),
    ("a huge seed", "epochs: 15", "epochs: 15\n    seed: 99999999999999999999", "spec.training.seed"),
    ("a huge picture", "pretrained: google/vit-base-patch16-224", "dimensions: {imageSize: 80000}", "imageSize"),
    ("two ways to choose", "epochs: 15", "epochs: 15\n    select: last", "set earlyStopping: null"),
    (
        "nothing to offload",
        "workers: 4",
        "workers: 4\n    cpuOffload: true",
        "cpuOffload is for what fsdp holds on GPUs",
    ),
    ("a range upside down", "workers: 4", "workers: {min: 8, max: 2}", "workers.min 8 is more than workers.max 2"),
    (
        "a set of nothing",
        "s3://studio/yoga",
        "synthetic://foo",
        "spec.data.source: 'synthetic://foo' is no synthetic set",
    ),
    ("too few", "s3://studio/yoga", "synthetic://poses?count=0", "spec.data.source: count must be a whole number from"),
    ("a foreign count", "s3://studio/yoga", "synthetic://poses?n=5", "spec.data.source: the synthetic set has no para"),
    ("one body", "s3://studio/yoga", "synthetic://poses?subjects=1", "spec.data: subjects is 1, but groupBy needs one"),
    ("a text that steers", "s3://studio/yoga", '"a\\0"', "spec.data.source: 'a\\x00' holds a control character; rem"),
    ("artifacts nowhere", "s3://models/yoga", "''", "spec.artifacts: string should have at least 1 character"),
    ("many levels", "epochs: 15", f"epochs: {'[' * 5000}{']' * 5000}", "yoga.yaml: is nested too deeply; write it"),
    ("a future trigger", "  artifacts:", "  retraining: {onDrift: true}\n  artifacts:", "spec.retraining: is not impl"),
]


@pytest.mark.parametrize(("old", "new", "line"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cant_be_carried_out_is_refused_by_name(old: str, new: str, line: str) -> None:
    assert old in WHOLE
    with pytest.raises(SpecError) as refused:
        spec.parse(WHOLE.replace(old, new, 1), "yoga.yaml")
    assert refused.value.exit_code == 2
    shown = str(refused.value)
    assert re.search("|".join(re.escape(part) for part in line.split("|")), shown), shown
    assert all(each.startswith("yoga.yaml") for each in shown.splitlines())


@pytest.mark.parametrize(
    ("workers", "line"),
    [
        ("x", "spec.training.workers: input should be a valid integer, not 'x'"),
        ("-3", "spec.training.workers: input should be greater than or equal to 1, not -3"),
        ("{min: 1, max: b}", "spec.training.workers.max: input should be a valid integer, not 'b'"),
    ],
)
def test_what_may_be_a_value_or_a_map_is_refused_as_what_was_written(workers: str, line: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec.parse(WHOLE.replace("workers: 4", f"workers: {workers}"), "yoga.yaml")
    assert str(refused.value) == f"yoga.yaml: {line}"


def test_every_wrong_key_gets_a_line_of_its_own() -> None:
    with pytest.raises(SpecError) as refused:
        spec.parse(WHOLE.replace("epochs: 15", "epoch: 15").replace("testSize", "testsize"))
    assert len(str(refused.value).splitlines()) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.yaml: there is no such file"):
        spec.load(tmp_path / "absent.yaml")


def test_exponents_without_a_dot_are_numbers() -> None:
    assert spec.parse(WHOLE.replace("3.0e-6", "3e-6")).spec.training.learning_rate == 3e-6


def test_yaml_merge_keys_work() -> None:
    gates = """  gates:
    - &first {metric: accuracy, atLeast: 0.79}
    - {<<: *first, metric: f1}
"""
    start, end = WHOLE.index("  gates:"), WHOLE.index("  export:")
    read = spec.parse(WHOLE[:start] + gates + WHOLE[end:]).spec.gates
    assert [(gate.metric, gate.at_least) for gate in read] == [("accuracy", 0.79), ("f1", 0.79)]


def test_a_declaration_survives_being_written_and_read() -> None:
    classifier = spec.parse(WHOLE)
    written = yaml.safe_dump(classifier.model_dump(mode="json", by_alias=True, exclude_unset=True))
    assert spec.parse(written) == classifier


def test_every_field_is_explained() -> None:
    lines = list(spec.fields())
    assert {"spec.data.source", "spec.gates[].metric", "spec.training.checkpoints.everySteps"} <= {
        line.path for line in lines
    }
    assert [line.path for line in lines if not line.text] == []


def test_the_schema_names_fields_as_yaml_does() -> None:
    text = str(spec.schema())
    assert "earlyStopping" in text
    assert "early_stopping" not in text


ZERO_SHOT = WHOLE.replace("epochs: 15", "epochs: 0").replace("    freezeLayers: 2\n", "")


def test_a_pretrained_clip_needs_no_epoch() -> None:
    assert spec.parse(ZERO_SHOT.replace("vit\n", "clip\n", 1)).spec.training.epochs == 0


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("{architecture: clip}", "only a clip with model.pretrained and head prompts can answer untrained"),
        ("{architecture: clip, pretrained: x, clip: {head: linear}}", "head prompts can answer untrained; raise it"),
        ("{architecture: clip, pretrained: x, lora: {}}", "nothing learns; remove model.lora"),
        ("{architecture: clip, pretrained: x, clip: {interpolation: [1]}}", "remove model.clip.interpolation"),
    ],
)
def test_what_must_learn_needs_an_epoch(model: str, line: str) -> None:
    declared = re.sub(r"model:\n(    .*\n)+", f"model: {model}\n", ZERO_SHOT)
    with pytest.raises(SpecError, match=re.escape(line)):
        spec.parse(declared)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_no_value_ends_in_anything_but_a_refusal(value: object) -> None:
    document = yaml.safe_load(WHOLE)
    document["spec"]["training"] = value
    try:
        spec.parse(yaml.safe_dump(document))
    except SpecError as e:
        assert str(e)
