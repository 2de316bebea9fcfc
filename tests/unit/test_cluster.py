"""What is applied to a cluster, and what a RayJob's status means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vitruvian import spec
from vitruvian.cluster import rayjob, raypods, rayservice, serving
from vitruvian.cluster.objects import manifest
from vitruvian.cluster.runs import run_of
from vitruvian.cluster.settings import Ingress, RayServeSettings, TrainerSettings, parse
from vitruvian.errors import SpecError, TrainingError
from vitruvian.training.launch import _refuse_to_run_in_place
from vitruvian.training.progress import Bar, bar_of

ROOT = Path(__file__).parents[2]


def declared(name: str = "yoga", artifacts: str = "s3://models/yoga", **parts: Any) -> tuple[spec.Classifier, str]:
    text = yaml.safe_dump(
        {
            "metadata": {"name": name},
            "spec": {
                "data": {"source": "s3://studio/yoga"},
                "model": {"architecture": "vit"},
                "training": {"strategy": "ddp", "workers": 2},
                "artifacts": artifacts,
                **parts,
            },
        }
    )
    return spec.parse(text), text


def built(settings: TrainerSettings | None = None, **parts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    classifier, text = declared(**parts)
    job, config = rayjob.build(classifier, text, "yoga-1", "studio", settings or TrainerSettings())
    return job, config


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())]
    return [job["spec"]["submitterPodTemplate"]["spec"], *(group["template"]["spec"] for group in groups)]


def test_ray_is_the_version_that_the_image_installs() -> None:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and pinned[1] == raypods.RAY_VERSION


def test_the_head_does_no_work_and_each_worker_is_a_pod() -> None:
    job, config = built()
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    assert "enableInTreeAutoscaling" not in cluster
    assert spec.parse(config["data"]["classifier.yaml"]).name == "yoga"


def test_prometheus_finds_a_runs_metrics_where_the_run_shows_them() -> None:
    job, _ = built()
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    annotations = head["metadata"]["annotations"]
    named = {port["name"]: port for port in head["spec"]["containers"][0]["ports"]}
    assert {"dashboard", "gcs-server"} < set(named), "KubeRay looks for these, and adds none where there is one"
    port = named["run-metrics"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert f"--metrics-host 0.0.0.0 --metrics-port {port['containerPort']}" in job["spec"]["entrypoint"]
    monitors = (ROOT / "charts" / "vitruvian" / "templates" / "podmonitor.yaml").read_text()
    assert f"port: {port['name']}," in monitors
    policies = (ROOT / "charts" / "vitruvian" / "templates" / "networkpolicies.yaml").read_text()
    assert f"port: {port['containerPort']}, protocol: TCP" in policies
    (worker,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert "annotations" not in worker["template"]["metadata"]


def test_one_process_trains_on_the_head() -> None:
    job, _ = built(training={"strategy": "none"})
    assert "workerGroupSpecs" not in job["spec"]["rayClusterSpec"]


def test_every_pod_holds_to_the_level_restricted() -> None:
    job, _ = built()
    assert len(pods(job)) == 3
    for pod in pods(job):
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_settings_reach_the_pods_they_are_for() -> None:
    settings = parse(
        TrainerSettings,
        """
        image: registry.example/trainer:7
        serviceAccount: trainer
        worker: {cpu: "4", memory: 16Gi, cpuLimit: "8"}
        nodeSelector: {pool: gpu}
        tolerations: [{key: nvidia.com/gpu, operator: Exists}]
        headNodeSelector: {pool: steady}
        queue: team-a
        attempts: 5
        env: {WANDB_MODE: offline}
        """,
        "settings",
    )
    job, _ = built(settings)
    submitter, head, worker = pods(job)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["spec"]["backoffLimit"] == 4
    assert {pod["containers"][0]["image"] for pod in pods(job)} == {"registry.example/trainer:7"}
    assert {pod["serviceAccountName"] for pod in pods(job)} == {"trainer"}
    assert head["nodeSelector"] == {"pool": "steady"} and "tolerations" not in head
    assert worker["nodeSelector"] == {"pool": "gpu"} and worker["tolerations"]
    assert worker["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "cpu": "8"}
    assert {"name": "WANDB_MODE", "value": "offline"} in worker["containers"][0]["env"]
    assert "nodeSelector" not in submitter


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hed: {}", "hed: Extra inputs are not permitted"),
        ("attempts: 0", "attempts: Input should be greater than or equal to 1"),
        ("worker: {memory: [1]}", "worker.memory: Input should be a valid string"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_settings_that_are_wrong_are_named(text: str, named: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(TrainerSettings, text, "settings.yaml")
    assert named in str(refused.value)
    assert str(refused.value).startswith("settings.yaml: ")


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"data": {"source": "data/yoga"}}, "spec.data.source"),
        ({"artifacts": "artifacts/yoga"}, "spec.artifacts"),
    ],
)
def test_a_folder_of_this_machine_is_refused(parts: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match=re.escape(field)):
        built(**parts)


def test_a_long_name_stays_one_that_kuberay_takes() -> None:
    classifier, _ = declared(name="a" * 63)
    name = rayjob.name_of(classifier)
    assert len(name) <= 47
    assert name != rayjob.name_of(classifier)


def test_a_manifest_reads_back_as_it_was() -> None:
    job, config = built()
    assert list(yaml.safe_load_all(manifest([job, config]))) == [job, config]


STATES = [
    ({}, {}, "Waiting", 1),
    ({}, {"jobDeploymentStatus": "Initializing"}, "Starting", 1),
    ({}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "Running", 1),
    ({}, {"jobDeploymentStatus": "Retrying", "failed": 1}, "Starting", 2),
    ({}, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "failed": 1}, "Succeeded", 2),
    ({}, {"jobDeploymentStatus": "Complete", "jobStatus": "FAILED", "failed": 3}, "Failed", 3),
    ({}, {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "failed": 3}, "Failed", 3),
    ({"suspend": True}, {"jobDeploymentStatus": "Suspended"}, "Suspended", 1),
    ({"suspend": True}, {}, "Suspended", 1),
]


@pytest.mark.parametrize(("declaration", "status", "state", "attempt"), STATES)
def test_two_status_strings_become_one_state(
    declaration: dict[str, Any], status: dict[str, Any], state: str, attempt: int
) -> None:
    metadata = {"name": "yoga-1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    run = run_of({"metadata": metadata, "spec": declaration, "status": status})
    assert (run.state, run.attempt) == (state, attempt)


def test_a_bundle_in_s3_becomes_an_inference_service() -> None:
    classifier, _ = declared(serving={"replicas": {"min": 2, "max": 5, "cpuPercent": 60}})
    made = serving.inference_service(classifier, "s3://models/yoga/bundles/0123456789ab", "0123456789ab", "studio")
    predictor = made["spec"]["predictor"]
    assert predictor["model"]["storageUri"] == "s3://models/yoga/bundles/0123456789ab"
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 5)
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("cpu", 60)
    assert serving.autoscaler(classifier, "studio") is None
    with pytest.raises(SpecError, match="can't reach this bundle"):
        serving.inference_service(classifier, "file:///bundles/1", "1", "studio")


def test_a_queue_is_scaled_by_an_autoscaler_of_our_own() -> None:
    classifier, _ = declared(serving={"replicas": {"max": 3, "queueLength": 2.5}})
    made = serving.inference_service(classifier, "s3://models/yoga/bundles/1", "1", "studio")
    assert made["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "external"
    assert "scaleMetric" not in made["spec"]["predictor"]
    scaler = serving.autoscaler(classifier, "studio")
    assert scaler is not None
    assert [metric["type"] for metric in scaler["spec"]["metrics"]] == ["Resource", "Pods"]
    assert scaler["spec"]["metrics"][1]["pods"]["target"]["averageValue"] == "2500m"


def test_a_line_of_a_log_becomes_a_bar_again() -> None:
    now = Bar(3, 20, 120, 400, 0.5312, 0.5)
    assert bar_of(now.line()) == now
    assert bar_of("  best epoch 3: validation accuracy 71.2%") is None


def test_machines_may_be_lost_for_ever_but_not_in_place() -> None:
    _refuse_to_run_in_place([(0, step) for step in range(100)])
    _refuse_to_run_in_place([(1, 5)] * 4)
    with pytest.raises(TrainingError, match="begun 5 times at epoch 2, step 5"):
        _refuse_to_run_in_place([(0, 0), *[(1, 5)] * 5])


BUNDLE = "s3://models/yoga/bundles/7"


def test_ray_serve_says_how_many_servers_there_are_and_each_has_a_pod() -> None:
    classifier, _ = declared(serving={"backend": "rayserve", "replicas": {"min": 2, "max": 5, "queueLength": 3}})
    (service,) = rayservice.ray_service(classifier, BUNDLE, "7", "studio", RayServeSettings())
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["args"] == {"bundle": BUNDLE, "name": "yoga"}
    (deployment,) = application["deployments"]
    assert deployment["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 4}
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["replicas"], group["rayStartParams"]) == (2, {"num-cpus": "1"})
    assert group["minReplicas"] == 0 and group["maxReplicas"] > 5
    assert not service["spec"]["excludeHeadPodFromServeSvc"]


def test_a_new_version_and_other_bounds_begin_no_new_cluster() -> None:
    few, _ = declared(serving={"backend": "rayserve"})
    many, _ = declared(serving={"backend": "rayserve", "replicas": {"max": 9}})
    old, new = (
        rayservice.ray_service(classifier, BUNDLE[:-1] + version, version, "studio", RayServeSettings())[0]["spec"]
        for classifier, version in ((few, "7"), (many, "8"))
    )
    assert old["rayClusterConfig"] == new["rayClusterConfig"]
    assert old["serveConfigV2"] != new["serveConfigV2"]


def test_a_ray_service_is_reached_from_outside_where_a_domain_is_set() -> None:
    classifier, _ = declared(serving={"backend": "rayserve"})
    settings = RayServeSettings(ingress=Ingress(domain="example.com", class_name="alb"))
    _, ingress = rayservice.ray_service(classifier, BUNDLE, "7", "studio", settings)
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "yoga-studio.example.com"
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "yoga-serve-svc", "port": {"number": 8000}}


def test_every_pod_of_a_ray_service_holds_to_the_level_restricted() -> None:
    classifier, _ = declared(serving={"backend": "rayserve"})
    (service,) = rayservice.ray_service(classifier, BUNDLE, "7", "studio", RayServeSettings())
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in pod["containers"])
