"""The main job through the command line: real files in, a bundle that answers out, and nothing lost on the way."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from tests.projects import CLASSES, VITRUVIAN, declare, files_of, vitruvian, write_data
from vitruvian.bundle import open_bundle, read_champion
from vitruvian.inference.predictor import Predictor
from vitruvian.store import open_store


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def heatmaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("heatmaps"), "heatmaps")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A project whose classifier is published."""
    root = tmp_path_factory.mktemp("finished")
    done = vitruvian("run", "-f", declare(root, pictures))
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project that a test may break."""
    shutil.copytree(finished / "artifacts", tmp_path / "artifacts")
    text = (finished / "poses.yaml").read_text().replace(str(finished), str(tmp_path))
    (tmp_path / "poses.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("form", ["images", "heatmaps"])
def test_a_folder_for_each_class_becomes_a_bundle_that_answers(
    form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue("pictures" if form == "images" else "heatmaps")
    file = declare(tmp_path, source, form, training={"epochs": 20}, gates=[{"metric": "accuracy", "atLeast": 0.5}])
    done = vitruvian("run", "-f", file)
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "artifacts")
    assert bundle.info.labels == CLASSES
    assert bundle.info.name == "poses"
    assert bundle.info.metrics["accuracy"] >= 0.5
    assert bundle.info.gates[0].passed
    assert bundle.served.format == "onnx"
    assert bundle.served.max_difference < 1e-3
    files = {path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file()}
    assert {
        "model.safetensors",
        "config.json",
        "preprocess.json",
        "bundle.json",
        "checksums.json",
        "README.md",
    } <= files
    assert {"report/report.html", "report/curves.png", "report/confusion-matrix.png"} <= files
    predictor = Predictor.open(bundle)
    predictor.warm_up()

    rows = tmp_path / "rows.csv"
    assert vitruvian("predict", tmp_path / "artifacts", source, "--csv", rows).returncode == 0
    with open(rows, newline="") as opened:
        read = list(csv.DictReader(opened))
    assert list(read[0]) == ["path", "label", "confidence", *CLASSES]
    assert len(read) == 120
    right = sum(row["label"] == Path(row["path"]).parent.name for row in read)
    assert right / len(read) >= 0.5
    assert all(sum(float(row[name]) for name in CLASSES) == pytest.approx(1, abs=1e-4) for row in read)


def test_a_second_run_finds_everything_fresh_and_changes_nothing(project: Path) -> None:
    before = files_of(project / "artifacts")
    done = vitruvian("run", "-f", project / "poses.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓ fresh") == 6
    assert files_of(project / "artifacts") == before


def test_another_gate_trains_nothing_again(project: Path) -> None:
    text = (project / "poses.yaml").read_text()
    (project / "poses.yaml").write_text(text + "  gates: [{metric: accuracy, atLeast: 0.01}]\n")
    done = vitruvian("run", "-f", project / "poses.yaml")
    assert done.returncode == 0, done.stderr
    fresh = [line.split()[1] for line in done.stdout.splitlines() if "✓ fresh" in line]
    assert fresh == ["prepare", "train", "evaluate", "export"]
    assert len(list((project / "artifacts" / "bundles").iterdir())) == 2


def test_a_failed_gate_ends_with_3_and_says_what_missed_by_how_much(project: Path) -> None:
    champion = read_champion(open_store(project / "artifacts"))
    text = (project / "poses.yaml").read_text()
    (project / "poses.yaml").write_text(text + "  gates: [{metric: accuracy, atLeast: 1.0}]\n")
    for _ in range(2):
        done = vitruvian("run", "-f", project / "poses.yaml")
        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1
        accuracy = open_bundle(project / "artifacts").info.metrics["accuracy"]
        assert f"accuracy {accuracy:.3f} misses 1.000 by {1.0 - accuracy:.3f}" in done.stderr
    assert read_champion(open_store(project / "artifacts")) == champion
    assert len(list((project / "artifacts" / "bundles").iterdir())) == 1


def test_a_challenger_is_held_against_the_champion_on_the_same_pictures(project: Path) -> None:
    text = (project / "poses.yaml").read_text().replace("epochs: 2", "epochs: 1")
    gate = "  gates: [{metric: accuracy, versus: champion, atLeast: 0.9}]\n"
    (project / "poses.yaml").write_text(text + gate)
    done = vitruvian("run", "-f", project / "poses.yaml")
    assert done.returncode == 3
    assert "accuracy" in done.stderr
    assert "champion" in done.stderr


def test_curves_lie_beside_what_was_trained_before_anything_is_tested(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures)
    for _ in range(2):
        done = vitruvian("train", "-f", file)
        assert done.returncode == 0, done.stderr
        (page,) = (tmp_path / "artifacts" / "stages" / "train").glob("*/curves.html")
        assert f"curves: file://{page}" in done.stdout
    assert "<svg" in page.read_text() and page.parent.name in page.read_text()
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "artifacts" / "stages" / "evaluate").exists()


def test_each_stage_has_a_verb(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures, training={"epochs": 1})
    for verb in ("prepare", "train", "evaluate", "gate", "export", "publish"):
        done = vitruvian(verb, "-f", file)
        assert done.returncode == 0, done.stderr
        made = tmp_path / "artifacts" / ("bundles" if verb == "publish" else f"stages/{verb}")
        assert len(list(made.iterdir())) == 1
    assert done.stdout.count("✓ fresh") == 5


@pytest.mark.parametrize("moment", ["reading", "Epoch", "evaluate", "export"])
def test_after_ctrl_c_the_next_run_goes_on(tmp_path: Path, pictures: Path, finished: Path, moment: str) -> None:
    file = declare(tmp_path, pictures)
    log = tmp_path / "out.txt"
    with open(log, "w") as out:
        process = subprocess.Popen(
            [VITRUVIAN, "run", "-f", file],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # A shell without job control starts background jobs deaf to Ctrl-C, and these tests may be one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        wanted = {"reading": "1/6", "Epoch": "1/2", "evaluate": "3/6", "export": "5/6"}[moment]
        deadline = time.monotonic() + 300
        while wanted not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 130, log.read_text()
    assert "interrupted; run the same command again to go on" in log.read_text()
    done = vitruvian("run", "-f", file)
    assert done.returncode == 0, done.stderr
    whole, resumed = (open_bundle(root / "artifacts") for root in (finished, tmp_path))
    assert (whole.folder / "model.safetensors").read_bytes() == (resumed.folder / "model.safetensors").read_bytes()


def test_a_training_that_nobody_reads_on_ends_in_one_line(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures, training={"epochs": 500, "earlyStopping": None})
    process = subprocess.Popen(
        [VITRUVIAN, "train", "-f", file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert any("2/500" in line for line in process.stdout)
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(60) == 1
    assert told == "✗ the output can't be written: Broken pipe\n"


def _terminated(file: Path, folder: Path, reached: str) -> str:
    """Train until something is told, then end it by SIGTERM; return all that was told."""
    log = folder / "out.txt"
    with open(log, "w") as out:
        process = subprocess.Popen([VITRUVIAN, "train", "-f", file], stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        while reached not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        assert process.wait(60) == 143, log.read_text()
    return log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminated_run_saves_first(tmp_path: Path, pictures: Path, workers: int) -> None:
    training = {"epochs": 500, "checkpoints": {"everySteps": 100000}, "earlyStopping": None}
    several = {"strategy": "ddp", "workers": workers} if workers > 1 else {}
    file = declare(tmp_path, pictures, training={**training, **several})
    told = _terminated(file, tmp_path, "3/500")
    assert "ended by SIGTERM; all is saved; run the same command again to go on" in told
    (saved,) = tmp_path.glob("artifacts/checkpoints/*/state.json")

    declare(tmp_path, pictures, training={**training, **several, "epochs": 1})
    done = vitruvian("train", "-f", file)
    assert done.returncode == 0, done.stderr
    left = f"run {saved.parent.name} isn't finished, and this is another one: training.epochs was 500 and is 1"
    assert left in " ".join(done.stdout.split())


def test_a_run_that_is_terminated_while_ray_starts_says_so(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures, training={"strategy": "ddp", "workers": 2})
    with open(tmp_path / "out.txt", "w") as out:
        process = subprocess.Popen([VITRUVIAN, "train", "-f", file], stdout=out, stderr=subprocess.STDOUT)
        running = psutil.Process(process.pid)
        deadline = time.monotonic() + 120
        while not any("gcs_server" in child.name() for child in running.children()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        code = process.wait(60)
    told = (tmp_path / "out.txt").read_text()
    assert code == 143, told
    assert "✗ ended by SIGTERM" in told and "Traceback" not in told


def test_groups_that_are_few_are_told_of(tmp_path: Path) -> None:
    source = "synthetic://poses?count=120&subjects=8"
    file = declare(tmp_path, source, data={"groupBy": "subject"})
    told = " ".join(vitruvian("prepare", "-f", file).stdout.split())
    assert "groups: 5 in train, 1 in validation, 2 in test" in told
    assert "few groups in validation and test: what is measured there is rough" in told


def test_a_file_where_artifacts_are_to_be_is_named_before_any_work(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures)
    (tmp_path / "artifacts").write_text("a file")
    done = vitruvian("run", "-f", file)
    assert done.returncode == 2 and "prepare" not in done.stdout
    assert done.stderr == f"✗ {tmp_path}/artifacts: is no folder; remove it, or name another folder in spec.artifacts\n"


def test_a_machine_whose_memory_is_full_is_told_of_in_one_line(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures, training={"strategy": "ddp", "workers": 2})
    done = vitruvian("train", "-f", file, RAY_memory_usage_threshold="0.01")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "a machine's memory was full (" in done.stderr, done.stderr
    assert "fewer workers" in done.stderr


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, pictures: Path, finished: Path) -> None:
    file = declare(tmp_path, pictures)
    process = subprocess.Popen([VITRUVIAN, "run", "-f", file], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("artifacts/checkpoints/*/state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert vitruvian("run", "-f", file).returncode == 0
    whole, resumed = (open_bundle(root / "artifacts") for root in (finished, tmp_path))
    assert (whole.folder / "model.safetensors").read_bytes() == (resumed.folder / "model.safetensors").read_bytes()


def test_a_run_that_broke_off_with_two_workers_goes_on_with_one(tmp_path: Path, pictures: Path) -> None:
    training = {"epochs": 40, "checkpoints": {"everySteps": 2}, "earlyStopping": None}
    file = declare(tmp_path, pictures, training={**training, "strategy": "ddp", "workers": 2})
    _terminated(file, tmp_path, " 2/40")
    declare(tmp_path, pictures, training={**training, "loaders": 1})
    done = vitruvian("train", "-f", file)
    assert done.returncode == 0, done.stderr
    assert "going on from epoch" in done.stdout
    assert " 1 worker," in done.stdout
    assert " 1/40" not in done.stdout and "40/40" in done.stdout
    assert len(list((tmp_path / "artifacts" / "checkpoints").iterdir())) == 1


def test_a_finished_model_stays_whatever_computes_it(project: Path) -> None:
    before = files_of(project / "artifacts")
    declared = yaml.safe_load((project / "poses.yaml").read_text())
    declared["spec"]["training"] |= {
        "strategy": "ddp",
        "workers": {"min": 1, "max": 2},
        "checkpoints": {"everySteps": 7, "keep": 5},
        "loaders": 0,
        "accumulate": 2,
        "activationCheckpointing": True,
    }
    (project / "poses.yaml").write_text(yaml.safe_dump(declared))
    done = vitruvian("run", "-f", project / "poses.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓ fresh") == 6
    assert files_of(project / "artifacts") == before


def _refused(done: subprocess.CompletedProcess[str], *parts: str, code: int = 1) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def test_a_corrupt_picture_is_named_and_earlier_artifacts_stay(project: Path, pictures: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    (source / "standing" / "999.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    text = (project / "poses.yaml").read_text().replace(str(pictures), str(source))
    (project / "poses.yaml").write_text(text)
    before = files_of(project / "artifacts")
    _refused(vitruvian("run", "-f", project / "poses.yaml"), "standing/999.png", "replace or remove it")
    assert files_of(project / "artifacts") == before


def test_a_wrong_heatmap_is_named(heatmaps: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(heatmaps, source)
    np.save(source / "t-pose" / "bad.npy", np.zeros((17, 48, 64), np.float32))
    done = vitruvian("run", "-f", declare(tmp_path, source, "heatmaps"))
    _refused(done, "t-pose/bad.npy", "has shape [17, 48, 64] instead of [1, 17, 64, 48]")


def test_an_empty_class_one_class_and_a_missing_class_are_named(pictures: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    file = declare(tmp_path, source)
    (source / "empty").mkdir()
    _refused(vitruvian("run", "-f", file), "source/empty", "the class folder holds no image")
    shutil.copy(source / "standing" / "000.png", source / "empty" / "000.png")
    _refused(vitruvian("run", "-f", file), "no example of class 'empty' is left")
    for name in ("empty", "standing", "t-pose"):
        shutil.rmtree(source / name)
    _refused(vitruvian("run", "-f", file), "there is only one class, 'arms-raised'")
    assert not (tmp_path / "artifacts" / "stages").exists()


def test_names_that_cant_be_used_are_one_line(pictures: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(pictures, source)
    os.rename(source / "standing", os.fsencode(source) + b"/caf\xe9")
    _refused(vitruvian("run", "-f", declare(tmp_path, source)), "'caf\\udce9/", "is no UTF-8 name")
    _refused(vitruvian("run", "-f", declare(tmp_path, tmp_path / ("a" * 300))), "File name too long")


def test_a_declaration_that_is_wrong_ends_with_2(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures)
    file.write_text(file.read_text().replace("epochs", "epoch"))
    _refused(vitruvian("run", "-f", file), "spec.training.epoch", "did you mean 'epochs'?", code=2)
    _refused(vitruvian("run", "-f", tmp_path / "absent.yaml"), "absent.yaml", "there is no such file", code=2)


def test_a_store_that_cant_be_reached_is_named(tmp_path: Path, pictures: Path) -> None:
    file = declare(tmp_path, pictures, artifacts="s3://models/poses")
    done = vitruvian(
        "run",
        "-f",
        file,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_REGION="us-east-1",
    )
    _refused(done, "s3://models/poses", "can't be reached", "http://127.0.0.1:9")


def test_a_bundle_with_a_byte_changed_is_refused(project: Path) -> None:
    bundle = open_bundle(project / "artifacts").folder
    weights = bundle / "exports" / "onnx" / "model.onnx"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    for command in (("predict", bundle, bundle / "golden"), ("serve", bundle, "--port", "0")):
        _refused(vitruvian(*command), "exports/onnx/model.onnx", "differs from its checksum")


def test_a_stage_artifact_with_a_byte_changed_is_not_used(project: Path) -> None:
    shutil.rmtree(project / "artifacts" / "stages" / "evaluate")
    weights = next((project / "artifacts" / "stages" / "train").glob("*/model/model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    _refused(
        vitruvian("run", "-f", project / "poses.yaml"), "model.safetensors", "delete", "run the same command again"
    )


def test_a_full_disk_is_told_and_the_next_run_goes_on(tmp_path: Path, pictures: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk: run the tests as root")
    try:
        file = declare(tmp_path, pictures, artifacts=str(disk / "artifacts"), training={"epochs": 1})
        _refused(vitruvian("run", "-f", file), "the disk is full", "free some space")
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        assert vitruvian("run", "-f", file).returncode == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_serving_tells_when_the_port_is_taken(finished: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = vitruvian("serve", finished / "artifacts", "--port", port)
    _refused(done, f"127.0.0.1:{port}", "in use")


def test_predicting_goes_on_after_a_bad_file(finished: Path, pictures: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"x")
    rows = tmp_path / "rows.csv"
    done = vitruvian("predict", finished / "artifacts", bad, pictures / "standing" / "000.png", "--csv", rows)
    _refused(done, "bad.png", "is not an image")
    assert len(rows.read_text().splitlines()) == 2


def test_what_was_decided_is_recorded(finished: Path) -> None:
    info = json.loads((open_bundle(finished / "artifacts").folder / "bundle.json").read_text())
    assert set(info["lineage"]) == {"data", "stages", "champion", "libraries", "python"}
    assert len(info["lineage"]["data"]["digest"]) == 64
    champion = json.loads((finished / "artifacts" / "champion.json").read_text())
    assert champion["version"] == info["version"]


def test_prometheus_can_watch_a_run_learn(pictures: Path, tmp_path: Path) -> None:
    file = declare(tmp_path, pictures, training={"strategy": "none", "epochs": 40})
    command = [str(VITRUVIAN), "run", "-f", str(file), "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = next(line.split()[1] for line in process.stdout if line.startswith("metrics: "))
            deadline = time.monotonic() + 120
            while (epoch := _sample(address, "vitruvian_training_epoch")) < 2:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
            assert _sample(address, "vitruvian_training_running") == 1
            assert _sample(address, "vitruvian_training_step") >= epoch
        finally:
            process.kill()


def _sample(address: str, name: str) -> float:
    """Return a metric's first value as Prometheus would read it; 0 where it isn't there."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + "{"):
                return float(line.split()[-1])
    return 0.0
