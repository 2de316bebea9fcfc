"""What is applied to a cluster, and what a RayJob's status means."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from vitruvian import spec
from vitruvian.cluster import rayjob, raypods, rayservice, servers, serving
from vitruvian.cluster.objects import manifest
from vitruvian.cluster.runs import run_of
from vitruvian.cluster.settings import (
    GcsFaultTolerance,
    Ingress,
    RayServeSettings,
    RaySettings,
    TrainerSettings,
    overlaid,
    overlaid_by,
    parse,
)
from vitruvian.errors import SpecError
from vitruvian.training import notice
from vitruvian.training.progress import Bar, Phase, bar_of

ROOT = Path(__file__).parents[2]
BUNDLE = "s3://models/yoga/bundles/7"


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


def test_a_tracked_run_is_told_where() -> None:
    classifier, text = declared()
    options = rayjob.tracked("http://mlflow.mlops:5000", "yoga; rm -rf /")
    job, _ = rayjob.build(
        classifier, text, "yoga-1", "studio", TrainerSettings(), rayjob.stages(classifier, options=options)
    )
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[-4:] == ["--mlflow", "http://mlflow.mlops:5000", "--wandb", "yoga; rm -rf /"]
    assert rayjob.tracked(None, None) == []


@pytest.mark.parametrize("uri", ["https://mlflow.example", "databricks", "databricks://team", "http://[fd00::1]:5000"])
def test_a_run_is_tracked_by_a_server_that_pods_reach(uri: str) -> None:
    assert rayjob.tracked(uri, None) == ["--mlflow", uri]


@pytest.mark.parametrize(
    "uri",
    [
        *("", "mlruns", "://", "ftp://x", "http://", "http://:5000", "http://h:x", "http://h:65536"),
        *("sqlite:///mlflow.db", "file:///runs", "http://localhost:5000", "http://127.0.0.1:5000"),
    ],
)
def test_a_run_is_tracked_by_nothing_that_pods_cant_reach(uri: str) -> None:
    with pytest.raises(SpecError) as refused:
        rayjob.tracked(uri, None)
    assert str(refused.value).startswith(f"--mlflow: '{uri}' is no MLflow server that the cluster's pods reach; give ")


@pytest.mark.parametrize("value", ["http://x/\nEVIL: 1", "http://x/\x1b[2J", "databricks://a\u2028b"])
def test_what_a_run_is_tracked_by_holds_no_control_characters(value: str) -> None:
    for option, asked in (("--mlflow", (value, None)), ("--wandb", (None, value))):
        with pytest.raises(SpecError) as refused:
            rayjob.tracked(*asked)
        assert str(refused.value).startswith(f"{option}: {value!a} holds a control character; ")


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


def test_of_a_range_of_workers_rays_autoscaler_sets_the_number() -> None:
    job, _ = built(training={"strategy": "ddp", "workers": {"min": 2, "max": 8}})
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (8, 2, 8)
    assert cluster["enableInTreeAutoscaling"]


def test_a_worker_with_a_gpu_asks_for_it() -> None:
    job, _ = built(training={"strategy": "ddp", "workers": 2, "gpusPerWorker": 1})
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["rayStartParams"]["num-gpus"] == "1"
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_pod_that_trains_saves_before_it_ends() -> None:
    job, _ = built()
    for pod in pods(job)[1:]:
        (ray,) = pod["containers"]
        *command, seconds = ray["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["vitruvian", "leave", "--seconds"]
        assert int(seconds) < pod["terminationGracePeriodSeconds"]
        assert notice.VARIABLE in {entry["name"] for entry in ray["env"]}


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


def test_lines_in_pods_logs_are_wide_unless_somebody_wants_them_narrow() -> None:
    def widths(settings: TrainerSettings) -> list[str]:
        variables = [pod["containers"][0]["env"] for pod in pods(built(settings)[0])]
        return [entry["value"] for env in variables for entry in env if entry["name"] == "COLUMNS"]

    assert widths(TrainerSettings()) == ["160"] * 3
    assert widths(TrainerSettings(env={"COLUMNS": "90"})) == ["90"] * 3


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
        headTolerations: [{key: steady, operator: Exists}]
        scratchLimit: 20Gi
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
    for pod in (head, submitter):
        assert pod["nodeSelector"] == {"pool": "steady"}
        assert pod["tolerations"] == [{"key": "steady", "operator": "Exists"}]
    assert worker["nodeSelector"] == {"pool": "gpu"}
    assert worker["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    for pod in pods(job):
        assert [each["emptyDir"] for each in pod["volumes"] if "emptyDir" in each] == [{"sizeLimit": "20Gi"}] * 2
    assert worker["containers"][0]["resources"]["limits"] == {"memory": "16Gi", "cpu": "8"}
    assert {"name": "WANDB_MODE", "value": "offline"} in worker["containers"][0]["env"]


def test_without_settings_pods_run_anywhere_and_write_what_the_node_has() -> None:
    job, _ = built()
    for pod in pods(job):
        assert "nodeSelector" not in pod and "tolerations" not in pod
        assert [each["emptyDir"] for each in pod["volumes"] if "emptyDir" in each] == [{}, {}]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hed: {}", "hed: Extra inputs are not permitted"),
        ("attempts: 0", "attempts: Input should be greater than or equal to 1"),
        ("worker: {memory: [1]}", "worker.memory: Input should be a valid string"),
        ("scratchLimit: much", "scratchLimit: String should match pattern"),
        ("a: [", "is not valid YAML"),
        ("attempts: 2\nattempts: 3", "the key 'attempts' stands twice"),
        ("worker: {cpu: '4', cpuLimit: '2'}", "worker: cpuLimit 2 is less than cpu 4"),
        ("worker: {cpuLimit: 500m}", "worker: cpuLimit 500m is less than cpu 1"),
        ("worker: {memory: '0'}", "worker.memory: no pod runs with 0 of memory: 1Gi is 1024Mi"),
        ("worker: {memory: 16}", "worker.memory: Input should be a valid string"),
        ("worker: {cpu: true}", "worker.cpu: Input should be a valid string"),
        ("attempts: true", "attempts: Input should be a valid integer"),
        ("attempts: '3'", "attempts: Input should be a valid integer"),
        ("ttlSeconds: '60'", "ttlSeconds: Input should be a valid integer"),
        ("scrapeAnnotations: 'no'", "scrapeAnnotations: Input should be a valid boolean"),
        ("[]", "is not one map of settings"),
        ("queue: a\n---\nqueue: b", "is not one map of settings"),
    ],
)
def test_settings_that_are_wrong_are_named(text: str, named: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(TrainerSettings, text, "settings.yaml")
    assert named in str(refused.value)
    assert str(refused.value).startswith("settings.yaml:")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_no_redis_has_is_refused(port: str) -> None:
    with pytest.raises(SpecError, match="redisAddress: a port is a number from 1 to 65535"):
        parse(RayServeSettings, f"gcsFaultTolerance: {{redisAddress: 'redis:{port}'}}", "settings.yaml")


@pytest.mark.parametrize(
    ("kind", "role", "memory"),
    [
        (TrainerSettings, "head", "4Gi"),
        (TrainerSettings, "worker", "6Gi"),
        (RayServeSettings, "head", "2Gi"),
        (RayServeSettings, "worker", "2Gi"),
    ],
)
def test_what_a_pods_settings_leave_out_is_that_pods_own_default(
    kind: type[RaySettings], role: str, memory: str
) -> None:
    for text in ("", f"{role}: {{cpu: 4}}"):
        assert getattr(parse(kind, text, "settings"), role).memory == memory


@pytest.mark.parametrize(("cpu", "taken"), [("4", "4"), ("0.5", "0.5"), ("'4'", "4"), ("250m", "250m")])
def test_a_number_of_cpus_needs_no_quotes(cpu: str, taken: str) -> None:
    assert parse(TrainerSettings, f"worker: {{cpu: {cpu}}}", "settings").worker.cpu == taken


ADMINISTERED = """
image: registry.example/trainer:7
serviceAccount: trainer
worker: {cpu: "2", memory: 16Gi}
env: {A: a, B: b}
headTolerations: [{key: a}, {key: b}]
nodeSelector: {pool: gpu}
"""


def test_a_file_of_settings_says_only_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("worker: {cpu: 8}\nenv: {B: c}\nheadTolerations: [{key: c}]\nattempts: 1\n")
    found = overlaid_by(parse(TrainerSettings, ADMINISTERED, "ConfigMap"), file)
    assert (found.image, found.service_account, found.attempts) == ("registry.example/trainer:7", "trainer", 1)
    assert (found.worker.cpu, found.worker.memory) == ("8", "16Gi")
    assert (found.env, found.node_selector) == ({"A": "a", "B": "c"}, {"pool": "gpu"})
    assert found.head_tolerations == ({"key": "c"},), "a list is replaced"
    assert found.head.memory == "4Gi"
    file.write_text("wrker: {}")
    with pytest.raises(SpecError, match=f"{file}: wrker: Extra inputs"):
        overlaid_by(found, file)
    with pytest.raises(SpecError, match="there is no such file; give a YAML file of settings"):
        overlaid_by(found, tmp_path / "none.yaml")


def test_a_file_without_a_cluster_says_only_what_differs_from_the_charts_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("attempts: 1")
    found = overlaid_by(TrainerSettings(), tmp_path / "mine.yaml")
    assert found == TrainerSettings(attempts=1)
    assert found.service_account == "vitruvian-trainer"
    assert RayServeSettings().service_account == "vitruvian-server"


SHA = "sha256:" + "0" * 64
NO_IMAGES = [
    *(
        "",
        " ",
        "a b",
        "Vitruvian/trainer:1",
        "registry.example/Vitruvian/trainer:1",
        "trainer:1:2",
        "trainer:",
        "trainer@",
    ),
    *(":1", "/trainer:1", "a//b:1", "trainer/:1", "trainer:-1", f"trainer:{'1' * 129}", "trainer:1@sha256:00", "a__-b"),
    *(
        f"trainer@{SHA}0",
        f"trainer@{SHA.upper()}",
        f"trainer@md5:{'0' * 32}",
        f"trainer@{SHA}:1",
        "https://a.example/b:1",
    ),
    *("a:b/c:1", "-a.example/b:1", "_a", "a_", "trainer:1\n", f"a.example/{'b' * 246}:1", "a" * 10_000),
]
IMAGES = [
    *(
        "trainer",
        "trainer:1",
        "vitruvian/trainer:0.1.0-rc.1_x",
        "localhost/trainer:1",
        "localhost:5000/trainer",
        "a__b/c--d.e",
    ),
    *("123456789012.dkr.ecr.eu-central-1.amazonaws.com/vitruvian/trainer:dev", "Registry.Example:5000/a/b/c/d:V1"),
    *(
        f"trainer@{SHA}",
        f"a.example/trainer:1@{SHA}",
        "[fd00::1]:5000/trainer:1",
        f"trainer@sha512:{'0' * 128}",
        "a---b",
    ),
    f"a.example/{'b' * 245}:{'1' * 128}@{SHA}",
]


@pytest.mark.parametrize("image", NO_IMAGES)
def test_an_image_that_no_registry_takes_is_refused_wherever_it_is_given(image: str) -> None:
    with pytest.raises(SpecError) as refused:
        overlaid(TrainerSettings(), {"image": image}, "--image")
    line = str(refused.value)
    assert line.startswith(f"--image: image: {image[:100]!r}") and len(line.splitlines()) == 1
    assert "[REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST]" in line or "shorten it to 255 characters" in line


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_that_registries_take_is_taken(image: str) -> None:
    assert overlaid(TrainerSettings(), {"image": image}, "--image").image == image
    assert overlaid(RayServeSettings(), {"image": image}, "--image").image == image


def test_a_queue_takes_a_fixed_number_of_workers_only() -> None:
    settings = TrainerSettings(queue="team-a")
    built(settings, training={"strategy": "ddp", "workers": {"min": 2, "max": 2}})
    with pytest.raises(SpecError) as refused:
        built(settings, training={"strategy": "ddp", "workers": {"min": 2, "max": 8}})
    assert str(refused.value) == (
        "spec.training.workers: Kueue, whose queue team-a the settings name, refuses runs that change their number of "
        "workers; write one number instead of min and max"
    )


RAYSERVE = {"backend": "rayserve"}
LETTERS = "abcdefghij" * 6


@pytest.mark.parametrize(
    ("backend", "name", "told"),
    [
        ("rayserve", "3d-yoga", "metadata.name: no RayService can be called '3d-yoga'; begin it with a letter"),
        ("kserve", "3d-yoga", "no InferenceService can be called '3d-yoga'; begin it with a letter"),
        ("rayserve", LETTERS[:48], f"can be called '{LETTERS[:48]}'; 47 characters at most, not 48"),
        ("kserve", LETTERS[:54], f"can be called '{LETTERS[:54]}'; 53 characters at most, not 54"),
        ("rayserve", LETTERS[:47], None),
        ("kserve", LETTERS[:46], None),
    ],
)
def test_a_name_that_no_server_can_have_is_refused_before_anything_is_applied(
    backend: str, name: str, told: str | None
) -> None:
    classifier, _ = declared(name, serving={"backend": backend})
    if told is None:
        assert servers.serving_objects(classifier, BUNDLE, "7", "studio", RayServeSettings())
        return
    with pytest.raises(SpecError, match=re.escape(told)):
        servers.serving_objects(classifier, BUNDLE, "7", "studio", RayServeSettings())


def test_a_name_that_no_run_can_have_is_refused() -> None:
    with pytest.raises(SpecError, match="no RayJob can be called '3d-yoga'; begin it with a letter"):
        built(name="3d-yoga")


def test_a_host_that_no_name_server_knows_is_refused() -> None:
    classifier, _ = declared(LETTERS[:40], serving=RAYSERVE)
    settings = RayServeSettings(ingress=Ingress(domain="example.com"))
    rayservice.ray_service(classifier, BUNDLE, "7", "studio", settings)
    with pytest.raises(SpecError, match="64 characters, more than 63; shorten it"):
        rayservice.ray_service(classifier, BUNDLE, "7", LETTERS[:23], settings)
    # KServe makes one with its predictor's name, too, and none at all where it can't.
    serving.inference_service(classifier, BUNDLE, "7", LETTERS[:12])
    with pytest.raises(SpecError, match=f"begin with {LETTERS[:40]}-predictor-.*64 characters, more than 63; shorten"):
        serving.inference_service(classifier, BUNDLE, "7", LETTERS[:13])


def test_more_workers_than_anybody_means_are_refused() -> None:
    with pytest.raises(SpecError, match=re.escape("spec.training.workers: 1,001 pods are more than 1,000")):
        built(training={"strategy": "ddp", "workers": 1001, "batchSize": 2002})


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
    assert predictor["storageContainerName"] == "vitruvian", "whatever else takes s3://"
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


@pytest.mark.parametrize("phase", ["Train", "Valid"])
def test_a_line_of_a_log_becomes_a_bar_again(phase: Phase) -> None:
    now = Bar(3, 20, 120, 400, 0.5312, 0.5, phase)
    assert bar_of(now.line()) == now
    assert bar_of("  best epoch 3: validation accuracy 71.2%") is None


def test_ray_serve_says_how_many_servers_there_are_and_each_has_a_pod() -> None:
    classifier, _ = declared(serving={"backend": "rayserve", "replicas": {"min": 2, "max": 5, "queueLength": 3}})
    service, _ = rayservice.ray_service(classifier, BUNDLE, "7", "studio", RayServeSettings())
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["args"] == {"bundle": BUNDLE, "name": "yoga"}
    (deployment,) = application["deployments"]
    assert deployment["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 5, "target_ongoing_requests": 4}
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["replicas"], group["rayStartParams"]) == (2, {"num-cpus": "1"})
    assert group["minReplicas"] == 0 and group["maxReplicas"] > 5
    assert not service["spec"]["excludeHeadPodFromServeSvc"]


def clusters() -> dict[str, dict[str, Any]]:
    job, _ = built()
    classifier, _ = declared(serving=RAYSERVE)
    (service,) = rayservice.ray_service(classifier, BUNDLE, "7", "studio", RayServeSettings())
    return {"RayJob": job["spec"]["rayClusterSpec"], "RayService": service["spec"]["rayClusterConfig"]}


@pytest.mark.parametrize("kind", ["RayJob", "RayService"])
def test_ray_answers_only_those_with_the_token_and_shows_no_port_that_nobody_uses(kind: str) -> None:
    cluster = clusters()[kind]
    assert cluster["authOptions"] == {"mode": "token"}
    (ray,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in ray["ports"]}
    own = {"run-metrics": 8081} if kind == "RayJob" else {"serve": 8000}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, **own}


def test_servers_are_spread_over_nodes_and_zones_where_there_is_room() -> None:
    (group,) = clusters()["RayService"]["workerGroupSpecs"]
    rules = group["template"]["spec"]["topologySpreadConstraints"]
    assert [rule["topologyKey"] for rule in rules] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for rule in rules:
        assert rule["whenUnsatisfiable"] == "ScheduleAnyway"
        assert rule["labelSelector"]["matchLabels"].items() >= {"vitruvian.dev/classifier": "yoga"}.items()


def test_a_node_is_drained_server_by_server_and_one_server_holds_none_up() -> None:
    several, _ = declared(serving={**RAYSERVE, "replicas": {"min": 3, "max": 5}})
    service, budget = rayservice.ray_service(several, BUNDLE, "7", "studio", RayServeSettings())
    assert (budget["kind"], budget["metadata"]["name"]) == ("PodDisruptionBudget", "yoga-servers")
    assert budget["spec"]["minAvailable"] == 2
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    of_workers = {"ray.io/node-type": "worker"}
    assert budget["spec"]["selector"]["matchLabels"] == group["template"]["metadata"]["labels"] | of_workers
    one, _ = declared(serving={**RAYSERVE, "replicas": {"max": 5}})
    assert len(rayservice.ray_service(one, BUNDLE, "7", "studio", RayServeSettings())) == 1


def test_a_redis_keeps_the_heads_state_where_the_settings_name_one() -> None:
    classifier, _ = declared(serving=RAYSERVE)
    assert "gcsFaultToleranceOptions" not in clusters()["RayService"]
    text = "gcsFaultTolerance: {redisAddress: 'rediss://redis.data:6379', redisSecret: redis}"
    settings = parse(RayServeSettings, text, "settings")
    (service,) = rayservice.ray_service(classifier, BUNDLE, "7", "studio", settings)
    assert service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"] == {
        "redisAddress": "rediss://redis.data:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
    }
    open_to_all = RayServeSettings(gcs_fault_tolerance=GcsFaultTolerance(redis_address="redis:6379"))
    (service,) = rayservice.ray_service(classifier, BUNDLE, "7", "studio", open_to_all)
    assert service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"] == {"redisAddress": "redis:6379"}


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
