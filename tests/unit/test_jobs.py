"""What a command with its options becomes on a cluster, and what no cluster does of it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import yaml

from vitruvian import cli, spec
from vitruvian.cluster import rayjob
from vitruvian.cluster.rayjob import Job
from vitruvian.cluster.settings import TrainerSettings
from vitruvian.errors import SpecError

SPACE = {"space": {"training.learningRate": {"logUniform": [1e-4, 1e-2]}}, "trials": 20}
TWO = {"strategy": "ddp", "workers": 2}
FILE = "/etc/vitruvian/classifier.yaml"


def _classifier(**parts: Any) -> spec.Classifier:
    whole = {
        "data": {"source": "s3://studio/yoga"},
        "model": {"architecture": "vit"},
        "training": TWO,
        "tuning": SPACE,
        "artifacts": "s3://models/yoga",
        **parts,
    }
    return spec.parse(yaml.safe_dump({"metadata": {"name": "yoga"}, "spec": whole}))


def _job(words: str, workers: int | None = None, **parts: Any) -> Job:
    return cli.job(_classifier(**parts), shlex.split(words), workers=workers)


def _built(job: Job) -> dict[str, Any]:
    made: dict[str, Any] = rayjob.build(_classifier(), "", "yoga-1", "studio", TrainerSettings(), job)[0]
    return made


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("", f"vitruvian run -f {FILE} --metrics-host 0.0.0.0 --metrics-port 8081"),
        ("train", f"vitruvian train -f {FILE}"),
        ("evaluate", f"vitruvian evaluate -f {FILE}"),
        ("study --vary 'model.freezeLayers=0,1'", f"vitruvian study -f {FILE} --vary model.freezeLayers=0,1"),
        ("tune --trials 5 --out s3://b/x.yaml", f"vitruvian tune -f {FILE} --trials 5 --out s3://b/x.yaml"),
        (
            "predict s3://data/new --out s3://data/answers --format csv",
            "vitruvian predict s3://models/yoga s3://data/new --out s3://data/answers --format csv --on-ray",
        ),
    ],
)
def test_a_job_runs_the_command_with_its_options_on_the_declaration_of_its_pods(words: str, command: str) -> None:
    assert shlex.join(_job(words).command) == command


def test_the_best_declaration_of_a_search_doesnt_go_with_its_pod() -> None:
    assert _job("tune").command[-2:] == ("--out", "s3://models/yoga/best.yaml")


ONE, RANGE = {"strategy": "none"}, {"strategy": "ddp", "workers": {"min": 2, "max": 8}}


@pytest.mark.parametrize(
    ("words", "training", "fewest", "most"),
    [
        ("run", TWO, 2, 2),
        ("evaluate", RANGE, 2, 8),
        ("train", ONE, 0, 0),
        # A trial is one process, and the leading pod has no room for it.
        ("tune", ONE, 1, 1),
        ("tune", TWO, 2, 2),
        ("tune", RANGE, 2, 8),
        ("tune --concurrent 6", ONE, 6, 6),
        ("tune --trials 3 --concurrent 6", TWO, 3, 3),
        ("tune --trials 1", RANGE, 1, 1),
        # Variants come one after the other: the largest one's pods do for all.
        ("study --seeds 0,1", TWO, 2, 2),
        ("study --vary training.workers=1,4,2", TWO, 4, 4),
        ("study --seeds 0,1", ONE, 0, 0),
        ("predict s3://data/new --out s3://data/answers", ONE, 1, 1),
        ("predict s3://data/new --out s3://data/answers", RANGE, 8, 8),
    ],
)
def test_there_are_as_many_pods_as_have_something_to_do(
    words: str, training: dict[str, Any], fewest: int, most: int
) -> None:
    job = _job(words, training=training)
    assert (job.fewest, job.most) == (fewest, most)


def test_a_prediction_has_the_pods_that_it_is_given_and_no_gpus() -> None:
    words = "predict s3://data/new --out s3://data/answers"
    job = _job(words, workers=5, training={**TWO, "gpusPerWorker": 1})
    assert (job.fewest, job.most, job.gpus) == (5, 5, 0)


def test_a_prediction_needs_no_data_to_train_on() -> None:
    classifier = _classifier(data={"source": "data/yoga"})
    job = cli.job(classifier, ["predict", "s3://data/new", "--out", "s3://data/answers"])
    assert rayjob.build(classifier, "", "yoga-1", "studio", TrainerSettings(), job)
    with pytest.raises(SpecError, match=r"spec\.data\.source: the cluster's pods can't reach a folder"):
        cli.job(classifier, ["train"])


def test_pods_have_the_gpus_that_any_training_of_the_job_needs() -> None:
    assert _job("study --vary training.gpusPerWorker=0,1").gpus == 1
    assert _job("tune", training={"gpusPerWorker": 1}).gpus == 1


def test_only_a_run_shows_metrics_and_each_job_says_what_it_is() -> None:
    for words in ("run", "train", "evaluate", "tune", "study --seeds 0,1"):
        made = _built(_job(words))
        template = made["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
        ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
        shown = ["run-metrics"] if words == "run" else []
        assert ports == ["gcs-server", "dashboard", *shown]
        assert bool(template["metadata"].get("annotations")) == (words == "run")
        assert made["metadata"]["labels"]["vitruvian.dev/job"] == words.split()[0]


REFUSED = [
    ("export", "submit: no RayJob is made of 'export'; name one of run, train, evaluate, tune, study, predict"),
    ("--dryrun", "submit run: No such option: --dryrun; see 'vitruvian submit --help' and 'vitruvian run --help'"),
    ("tune --trails 5", "submit tune: No such option: --trails "),
    ("tune --trials 0", "submit tune: Invalid value for '--trials': "),
    ("tune --out best.yaml", "--out: the cluster's pods can't reach a folder of this machine; use s3://"),
    ("tune --out s3://models", "--out: names no file; write s3://BUCKET/PREFIX/best.yaml"),
    ("tune --out s3://models/yoga/", "--out: names no file; write s3://BUCKET/PREFIX/best.yaml"),
    ("study", "--vary: nothing varies; "),
    ("study --vary model.freezLayers=0", "--vary model.freezLayers=0: "),
    ("study --vary training.epochs=0,1", "training.epochs=0: "),
    ("study --vary data.source=/home/me,s3://b/c", "spec.data.source: the cluster's pods can't reach a folder"),
    ("study --seeds 0,1 --out page", "--out: the cluster's pods can't reach a folder of this machine; "),
    ("train --tensorboard events", "--tensorboard: a pod's own disk goes with the pod; track with --mlflow"),
    ("run --metrics-port 9000", "--metrics-port: is 8081 on a cluster; leave it out"),
    ("train --mlflow sqlite:///x", "--mlflow: is an option of submit itself; write it before the --"),
    ("evaluate now", "submit evaluate: Got unexpected extra argument"),
    ("evaluate -f other.yaml", "-f: is an option of submit itself; write it before the --"),
    ("predict", "submit predict: Missing argument "),
    ("predict s3://data/new", "--out: is missing, so that the answers have no place; add --out s3://"),
    ("predict s3://data/new --out here", "--out: the cluster's pods can't reach a folder of this machine; "),
    ("predict new --out s3://data/a", "submit predict: the cluster's pods can't reach a folder of this machine; "),
    ("predict s3://m/yoga s3://d/n --out s3://d/a", "submit predict: takes one s3:// prefix of files, not 2; the "),
    ("predict s3://d/n --out s3://d/n", "--out: the answers can't go to where the files are; name a place outside"),
    ("predict s3://d/n/ --out s3://d/n/a", "--out: the answers can't go to where the files are; name a place outside"),
    ("predict s3://d/n --out s3://d/a --csv a.csv", "--csv: a pod's own disk goes with the pod; "),
    ("predict s3://d/n --out s3://d/a --format xml", "submit predict: Invalid value for '--format': 'xml' is"),
]


@pytest.mark.parametrize(("words", "told"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_would_fail_in_a_pod_is_refused_here_with_one_line(words: str, told: str) -> None:
    with pytest.raises(SpecError) as refused:
        _job(words)
    assert str(refused.value).startswith(told)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("words", "hint"), [("tune", "--concurrent says"), ("train", "spec.training.workers says")])
def test_pods_are_counted_where_the_command_itself_says_nothing_of_them(words: str, hint: str) -> None:
    with pytest.raises(SpecError, match=f"--workers: is for predict; leave it out: {hint}"):
        _job(words, workers=3)


def test_a_search_without_a_space_is_refused() -> None:
    with pytest.raises(SpecError, match=r"spec\.tuning: is missing, so nothing can vary"):
        _job("tune", tuning=None)


def test_more_pods_than_anybody_means_are_refused() -> None:
    with pytest.raises(SpecError, match="submit predict: 1,001 pods are more than 1,000; ask for fewer"):
        _built(_job("predict s3://data/new --out s3://data/answers", workers=1001))
