"""The cluster's commands as people run them, against an API server in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.apiserver import ApiServer, api_server, kubeconfig
from tests.projects import declare, vitruvian

OURS = {"app.kubernetes.io/managed-by": "vitruvian", "vitruvian.dev/classifier": "poses"}
SERVICE = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "poses", "labels": OURS},
}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with api_server() as made:
        (tmp_path / "config").write_text(kubeconfig(made.url))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        yield made


def test_undeploy_says_what_it_removed_and_fails_where_there_is_nothing(api: ApiServer, tmp_path: Path) -> None:
    file = declare(tmp_path, "s3://studio/poses", artifacts="s3://models/poses")
    for words in (("poses",), ("-f", file)):
        api.keep("inferenceservices", SERVICE)
        done = vitruvian("undeploy", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "InferenceService poses is removed"
        assert api.names() == set()
    done = vitruvian("undeploy", "poses")
    assert done.returncode == 1
    assert done.stderr.startswith("✗ namespace studio: nothing serves 'poses'; see 'kubectl -n studio get ")
    done = vitruvian("undeploy", "poses", "--ignore-not-found")
    assert (done.returncode, done.stderr) == (0, "")
    for wrong in ((), ("poses", "-f", file)):
        done = vitruvian("undeploy", *wrong)
        assert done.returncode == 2
        assert done.stderr == "✗ undeploy: says what to remove by NAME or by -f FILE; give one of them\n"


def test_a_declaration_that_can_be_read_only_once_is_submitted(api: ApiServer, tmp_path: Path) -> None:
    file = declare(tmp_path, "s3://studio/poses", artifacts="s3://models/poses")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(file.read_bytes(),), daemon=True)
    writer.start()
    done = vitruvian("submit", "-f", pipe, "--no-follow")
    assert done.returncode == 0, done.stderr
    writer.join()
    assert {name.partition("/")[0] for name in api.names()} == {"rayjobs", "configmaps"}
    (config,) = [each for (resource, _), each in api.kept.items() if resource == "configmaps"]
    assert config["data"]["classifier.yaml"] == file.read_text()
    done = vitruvian("submit", "-f", tmp_path)
    assert (done.returncode, done.stderr) == (2, f"✗ {tmp_path}: is a folder; give the file of a Classifier\n")


def test_a_search_is_submitted_listed_and_cancelled_as_a_run_is(api: ApiServer, tmp_path: Path) -> None:
    tuning = {"space": {"training.learningRate": {"logUniform": [1e-4, 1e-2]}}}
    file = declare(tmp_path, "s3://studio/poses", artifacts="s3://models/poses", tuning=tuning)
    # In any order, with options of both commands.
    done = vitruvian("submit", "tune", "--trials", "4", "-f", file, "--no-follow", "--concurrent", "2")
    assert done.returncode == 0, done.stderr
    (made,) = [each for (resource, _), each in api.kept.items() if resource == "rayjobs"]
    assert made["spec"]["entrypoint"].startswith(
        "vitruvian tune -f /etc/vitruvian/classifier.yaml --trials 4 --concurrent 2 --out s3://models/poses/"
    )
    name = made["metadata"]["name"]
    second = vitruvian("submit", "-f", file)
    assert second.returncode == 1 and f"run {name} of this classifier is not over" in second.stderr
    head, row = vitruvian("status", "poses").stdout.splitlines()
    assert head.split()[:4] == ["run", "classifier", "job", "state"]
    assert row.split()[:4] == [name, "poses", "tune", "Waiting"]
    assert vitruvian("cancel", "poses").stdout.startswith(f"run {name} is ended")
    assert api.names() == set()


def test_a_prediction_is_submitted_of_what_the_declaration_publishes(tmp_path: Path) -> None:
    file = declare(tmp_path, "s3://studio/poses", artifacts="s3://models/poses")
    words = ("predict", "-f", file, "s3://data/new", "--out", "s3://data/answers", "--part", "50", "--workers", "3")
    done = vitruvian("submit", *words, "--dry-run", KUBECONFIG=str(tmp_path / "none"))
    assert done.returncode == 0, done.stderr
    job = next(yaml.safe_load_all(done.stdout))["spec"]
    told = "vitruvian predict s3://models/poses s3://data/new --out s3://data/answers --part 50 --on-ray"
    assert job["entrypoint"] == told
    assert job["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 3


def test_metrics_of_a_host_without_a_port_are_refused(tmp_path: Path) -> None:
    done = vitruvian("run", "-f", declare(tmp_path, tmp_path), "--metrics-host", "0.0.0.0")
    assert (done.returncode, done.stderr) == (
        2,
        "✗ --metrics-host: shows nothing by itself; add --metrics-port 8081\n",
    )


@pytest.mark.parametrize("count", [10**9, 1001])
def test_more_servers_than_anybody_means_are_refused(count: int, tmp_path: Path) -> None:
    file = declare(tmp_path, tmp_path, serving={"replicas": {"max": count}})
    done = vitruvian("spec", "validate", file)
    assert done.returncode == 2
    assert done.stderr == (
        f"✗ {file}: spec.serving.replicas.max: input should be less than or equal to 1000, not {count}\n"
    )


COMMANDS = [("status",), ("logs", "poses"), ("cancel", "poses"), ("undeploy", "poses")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_cluster_that_isnt_there_is_one_line(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(kubeconfig("http://127.0.0.1:9"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    done = vitruvian(*command)
    assert done.returncode == 1
    hint = "check the cluster and the kubeconfig's current context"
    assert done.stderr == f"✗ http://127.0.0.1:9: the API server can't be reached; {hint}\n"


def test_a_name_that_nobody_has_is_one_line(api: ApiServer) -> None:
    for command in ("logs", "cancel"):
        done = vitruvian(command, "a\nb")
        assert done.returncode == 1
        line = "✗ studio: there is no run or classifier 'a\\nb'; 'vitruvian status' lists the runs there are\n"
        assert done.stderr == line
    done = vitruvian("status", "[red]")
    assert (done.returncode, done.stdout) == (0, "no runs of classifier [red] in namespace studio\n")


def test_without_waiting_both_backends_go_on_and_a_version_may_stay_unseen(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.keep("inferenceservices", SERVICE)
    serving = {"backend": "rayserve"}
    file = declare(tmp_path, "s3://studio/poses", artifacts="s3://models/poses", serving=serving)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    done = vitruvian("deploy", "-f", file, "--version", "0123456789ab", "--wait", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "poses version 0123456789ab is applied\n"
    unseen, both = done.stderr.splitlines()
    assert unseen == "version 0123456789ab is not looked up from here: no AWS credentials were found"
    assert both.startswith("InferenceService poses goes on, too; without --wait 0, deploy ends it")
    assert api.names() == {"inferenceservices/poses", "rayservices/poses"}


def test_a_file_of_settings_lies_over_the_administrators(api: ApiServer, tmp_path: Path) -> None:
    config = {"metadata": {"name": "vitruvian-trainer"}, "data": {"settings.yaml": "image: r/t:7\nattempts: 7"}}
    api.keep("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", **config})
    file = declare(tmp_path, "s3://studio/poses", artifacts="s3://models/poses")
    (tmp_path / "mine.yaml").write_text("attempts: 2")
    done = vitruvian("submit", "-f", file, "--dry-run", "--settings", tmp_path / "mine.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    job = next(yaml.safe_load_all(done.stdout))["spec"]
    assert job["backoffLimit"] == 1
    assert "image: r/t:7" in done.stdout


REFUSED = [
    (("submit", "--image", "a b"), 2, "--image: image: 'a b' is no image's name"),
    (("submit", "--dry-run", "--image", ""), 2, "--image: image: '' is no image's name"),
    (("submit", "--mlflow", "://"), 2, "--mlflow: '://' is no MLflow server that the cluster's pods reach; give "),
    (("submit", "-n", ""), 1, "'' can't be a namespace's name; use lower-case letters, digits and '-', 63 "),
    (
        ("submit", "evaluate", "--wandb", "x"),
        2,
        "--wandb: evaluate is not tracked; it is for run, train, tune, study; leave it out",
    ),
    (("submit", "study", "--vary", "x"), 2, "--vary x: is not PATH=VALUE,VALUE; "),
    (("deploy", "-n", "a" * 64), 1, f"'{'a' * 64}' can't be a namespace's name; "),
    (("deploy", "-n", "a.b"), 1, "'a.b' can't be a namespace's name; "),
    (("deploy", "--settings", os.devnull), 2, "--settings: is for Ray Serve's pods only; leave it out: spec.serving."),
]


@pytest.mark.parametrize("without", [False, True], ids=["with a cluster", "without"])
@pytest.mark.parametrize(("words", "code", "told"), REFUSED, ids=[" ".join(words)[:40] for words, *_ in REFUSED])
def test_what_no_cluster_takes_is_refused_with_one_line(
    without: bool,
    words: tuple[str, ...],
    code: int,
    told: str,
    api: ApiServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = declare(tmp_path, "s3://studio/poses", artifacts="s3://models/poses")
    if without:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    done = vitruvian(*words, "-f", file, "--dry-run")
    assert (done.returncode, done.stdout) == (code, "")
    (*_, line) = done.stderr.splitlines()
    assert line.startswith(f"✗ {told}")
    assert api.names() == set()
