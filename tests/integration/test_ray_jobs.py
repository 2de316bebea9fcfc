"""The entry points in ray_jobs/ run on a Ray cluster as the README says."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from pyarrow import parquet  # type: ignore[import-untyped]

from tests import rays
from tests.bundles import make_bundle, picture
from tests.integration.test_docs import blocks, commands
from tests.projects import declare, write_data
from vitruvian.bundle import read_champion
from vitruvian.store import open_store

ROOT = Path(__file__).parents[2]
PORT = 6390
DASHBOARD = 8266
# Jobs go through it; Ray's own choice is taken where another cluster runs on this machine by chance.
AGENT = 52366
# A cluster on a machine that many share answers only who knows its token; its jobs' python is the one with the package.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD}",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # Three seconds, Ray's own choice, are few on a machine that is busy.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
}


def _run(*command: str | Path, cwd: Path, check: bool = True) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's clone: the entry points, some data and a declaration."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "ray_jobs").symlink_to(ROOT / "ray_jobs")
    data = write_data(tmp_path_factory.mktemp("data") / "poses")
    out = tmp_path_factory.mktemp("shared")
    declare(out, data, training={"strategy": "ddp", "workers": 2}).rename(folder / "classifier.yaml")
    return folder


@pytest.fixture(scope="module")
def ray_cluster(project: Path) -> Iterator[None]:
    ports = ("--dashboard-port", str(DASHBOARD), "--dashboard-agent-listen-port", str(AGENT))
    with rays.head(PORT, 3, *ports, cwd=project, env=ENVIRONMENT):
        yield


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_submitted_as_the_readme_says_publishes_a_bundle(project: Path) -> None:
    (line,) = [line for line in commands("README.md") if line.startswith("ray job submit")]
    told = _run(*line.split(), cwd=project)
    assert "succeeded" in told
    artifacts = yaml.safe_load((project / "classifier.yaml").read_text())["spec"]["artifacts"]
    assert read_champion(open_store(artifacts)) is not None
    again = _run(*line.replace("pipeline.py", "evaluate.py").split(), cwd=project)
    # Ray may lose the last lines of a job's log.
    assert "✓ fresh" in again and "Train loss" not in again


@pytest.mark.usefixtures("ray_cluster")
def test_studies_and_searches_run_as_jobs_as_the_docs_say(project: Path) -> None:
    declared = yaml.safe_load((project / "classifier.yaml").read_text())
    space = {"training.learningRate": {"logUniform": [1e-3, 1e-2]}}
    declared["spec"]["tuning"] = {"space": space}
    declared["spec"]["training"] |= {"epochs": 1, "strategy": "none", "workers": 1}
    (project / "classifier.yaml").write_text(yaml.safe_dump(declared))
    artifacts = Path(declared["spec"]["artifacts"])
    study, tune = [line for line in commands("docs/studies.md") if line.startswith("ray job submit")]
    assert "succeeded" in _run(*study.split(), cwd=project)
    (table,) = artifacts.glob("studies/*/study.csv")
    assert len(table.read_text().splitlines()) == 3
    told = _run(*tune.split(), cwd=project)
    assert "succeeded" in told
    (trials,) = artifacts.glob("tuning/*/trials.csv")
    assert trials.read_text().count(",ended") == 2
    # The one in the job's folder goes with it; Ray may lose the last lines of a job's log.
    named = [line for line in told.splitlines() if "the best by" in line]
    assert all(line.endswith(f"vitruvian run -f {trials.with_name('best.yaml')}") for line in named)


@pytest.mark.usefixtures("ray_cluster")
def test_many_files_are_predicted_as_the_docs_say(project: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    source, out = tmp_path / "source", tmp_path / "out"
    for index in range(25):
        place = source / f"{index % 3}" / f"{index:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture("green", (20, 20)))
    (source / "0" / "broken.png").write_bytes(b"no picture")
    (line,) = [line for line in commands("docs/batch.md") if line.startswith("ray job submit")]
    places = {"s3://models/yoga": tmp_path / "bundle" / "store", "s3://data/new": source, "s3://data/answers": out}
    for address, folder in places.items():
        line = line.replace(address, str(folder))
    assert "succeeded" in _run(*line.split(), "--part", "4", cwd=project)
    assert (out / "_SUCCESS").exists()
    rows = [row for part in sorted(out.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]
    assert [row["path"] for row in rows] == sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    assert {row["label"] for row in rows if not row["error"]} == {"green"}
    assert [row["path"] for row in rows if row["error"]] == ["0/broken.png"]
    # What a killed job left out is all that the next one does.
    first, *others = sorted(out.glob("part-*.parquet"))
    written = [path.stat().st_mtime_ns for path in others]
    first.unlink()
    assert "succeeded" in _run(*line.split(), "--part", "4", cwd=project)
    assert first.exists() and [path.stat().st_mtime_ns for path in others] == written


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_whose_controller_is_killed_ends_and_leaves_its_places_to_the_next(tmp_path: Path) -> None:
    training = {"strategy": "ddp", "workers": 2, "epochs": 10_000, "earlyStopping": None}
    declared = declare(tmp_path, write_data(tmp_path / "poses"), training=training)
    command = ["vitruvian", "train", "-f", str(declared)]
    environment = {**ENVIRONMENT, "RAY_ADDRESS": f"127.0.0.1:{PORT}"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as train:
        assert train.stdout is not None
        told = next(line for line in train.stdout if "parameters" in line)
        mine = psutil.Process().children(recursive=True)
        controllers = [one for one in mine if "TrainController" in one.name()]
        assert controllers, told
        for controller in controllers:
            controller.kill()
        rest = train.communicate(timeout=120)[0]
    assert train.returncode == 1 and "✗ " in rest and "Traceback" not in rest
    asked = (
        "import ray, time; ray.init(log_to_driver=False)\nwhile ray.available_resources()['CPU'] < 3: time.sleep(0.1)"
    )
    subprocess.run([sys.executable, "-c", asked], env=environment, check=True, timeout=120, capture_output=True)


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_that_is_stopped_saves_first(tmp_path: Path) -> None:
    checkpoints = {"everySteps": 100_000, "keep": 100_000}
    training = {"strategy": "ddp", "workers": 2, "epochs": 10_000, "checkpoints": checkpoints, "earlyStopping": None}
    declare(tmp_path, write_data(tmp_path / "poses"), training=training)
    (tmp_path / "ray_jobs").symlink_to(ROOT / "ray_jobs")
    submitted = ("--no-wait", "--submission-id", "stopped", "--working-dir", ".", "--")
    _run("ray", "job", "submit", *submitted, "python", "ray_jobs/train.py", "--spec", "poses.yaml", cwd=tmp_path)
    deadline = time.monotonic() + 300
    while "3/10000" not in (told := _run("ray", "job", "logs", "stopped", cwd=tmp_path)):
        assert time.monotonic() < deadline, told
    _run("ray", "job", "stop", "stopped", cwd=tmp_path)
    # Ray may lose the last lines of a job's log.
    kept = (tmp_path / "artifacts").glob("checkpoints/*/step-*/manifest.json")
    steps = [json.loads(path.read_text())["position"]["step"] for path in kept]
    # Within an epoch nothing else saves; training may go on to the next one's end before it is ended.
    assert any(steps), steps


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("mode", [None, "token"])
def test_a_cluster_that_wants_its_token_is_named_in_one_line(tmp_path: Path, mode: str | None) -> None:
    data = write_data(tmp_path / "poses")
    declared = declare(tmp_path, data, training={"strategy": "ddp", "workers": 2})
    known = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")}
    wrong = {} if mode is None else {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        ["vitruvian", "train", "-f", declared],
        cwd=tmp_path,
        env={**known, **wrong, "RAY_ADDRESS": f"127.0.0.1:{PORT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    line = f"✗ RAY_ADDRESS=127.0.0.1:{PORT}: the cluster doesn't answer without its token; set RAY_AUTH_MODE=token"
    assert line in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr


def test_the_readmes_declaration_wants_artifacts_that_outlast_a_job(project: Path, tmp_path: Path) -> None:
    (declared,) = [block for block in blocks("README.md", "yaml") if "kind: Classifier" in block]
    (tmp_path / "classifier.yaml").write_text(declared)
    job = (sys.executable, project / "ray_jobs" / "train.py", "--spec", "classifier.yaml")
    told = _run(*job, cwd=tmp_path, check=False)
    assert told.startswith("spec.artifacts: artifacts/yoga lies in the job's working folder")
    assert len(told.splitlines()) == 1
    lasting = yaml.safe_load(declared)
    lasting["spec"]["artifacts"] = str(tmp_path / "artifacts")
    (tmp_path / "classifier.yaml").write_text(yaml.safe_dump(lasting))
    assert "No such option: --nonsense" in _run(*job, "--nonsense", cwd=tmp_path, check=False)


def test_a_head_of_this_machine_gets_its_token_as_the_readme_says(tmp_path: Path) -> None:
    mode, token, start, _ = [line for line in commands("README.md") if line.startswith(("export RAY_", "ray "))]
    # The module's cluster is started by the same words, with ports of its own.
    assert start == "ray start --head"
    bare = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-ec", line]
        return subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, check=False)

    # Without one it isn't started.
    assert "no authentication token was found" in shell(f"{mode}; {start} --port {PORT + 1}").stderr
    made = shell(f"{mode}; {token}")
    assert made.returncode == 0 and not made.stdout, made.stderr
    kept = (tmp_path / ".ray" / "auth_token").read_text()
    assert len(kept) >= 32
    assert shell(f"{mode}; {token}; ray get-auth-token").stdout.strip() == kept
