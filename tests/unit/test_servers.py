"""Serving on a cluster: what is applied, waited for, replaced and taken away, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver import ApiServer, api_server, kubeconfig, use
from vitruvian import spec
from vitruvian.cluster import readiness, servers
from vitruvian.cluster.api import Cluster
from vitruvian.cluster.objects import Object
from vitruvian.cluster.pods import obstacle
from vitruvian.cluster.settings import Ingress, RayServeSettings, TrainerSettings, administered
from vitruvian.errors import BundleError, NotAllowed, NotFound, VitruvianError

OLD, NEW = "0123456789ab", "ba9876543210"
FAILED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "…\n✗ s3://m/y/bundles/1: no bundle; x\n"}}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    for module in (servers, readiness):
        monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(servers, "_SECONDS_FOR_PROXIES", 0.01)
    with api_server() as made:
        ready = [{"type": each, "status": "True"} for each in ("PredictorReady", "IngressReady", "Ready")]
        made.status["InferenceService"] = {"observedGeneration": 0, "conditions": ready, "url": "http://yoga.kserve"}
        application = {"applicationStatuses": {"yoga": {"status": "RUNNING"}}}
        made.status["RayService"] = {"observedGeneration": 0, "activeServiceStatus": application}
        (tmp_path / "config").write_text(kubeconfig(made.url))
        use(monkeypatch, tmp_path / "config")
        yield made


def _declared(artifacts: str, **serving: Any) -> spec.Classifier:
    parts = {"data": {"source": "s3://d/y"}, "model": {"architecture": "vit"}, "serving": serving}
    return spec.parse(yaml.safe_dump({"metadata": {"name": "yoga"}, "spec": {**parts, "artifacts": artifacts}}))


def _made(version: str = OLD, backend: str = "kserve", **replicas: Any) -> list[Object]:
    classifier = _declared("s3://models/yoga", backend=backend, replicas=replicas)
    settings = RayServeSettings(ingress=Ingress(domain="example.com"))
    return servers.serving_objects(classifier, f"s3://models/yoga/bundles/{version}", version, "studio", settings)


def _mute(text: str) -> None:
    pass


def test_what_a_former_deploy_needed_and_this_one_doesnt_goes(api: ApiServer) -> None:
    cluster = Cluster()
    assert servers.deploy(cluster, _made(min=2, max=4, queueLength=2)) == OLD
    owned = {"horizontalpodautoscalers/yoga-servers", "poddisruptionbudgets/yoga-servers"}
    assert api.names() == {"inferenceservices/yoga", *owned}
    uid = api.kept["inferenceservices", "yoga"]["metadata"]["uid"]
    for resource in ("horizontalpodautoscalers", "poddisruptionbudgets"):
        (owner,) = api.kept[resource, "yoga-servers"]["metadata"]["ownerReferences"]
        assert owner["uid"] == uid
    servers.deploy(cluster, _made(min=2, max=4))
    assert api.names() == {"inferenceservices/yoga", "poddisruptionbudgets/yoga-servers"}
    servers.deploy(cluster, _made())
    assert api.names() == {"inferenceservices/yoga"}


@pytest.mark.parametrize(("first", "second"), [("kserve", "rayserve"), ("rayserve", "kserve")])
def test_another_backend_takes_over_and_the_one_before_goes(api: ApiServer, first: str, second: str) -> None:
    cluster = Cluster()
    servers.deploy(cluster, _made(backend=first, min=2, max=2))
    made = _made(NEW, backend=second, min=2, max=2)
    before = servers.former(cluster, made[0])
    assert before is not None and before["kind"] != made[0]["kind"]
    servers.deploy(cluster, made)
    assert {"inferenceservices/yoga", "rayservices/yoga"} < api.names(), "both serve until the new one answers"
    assert readiness.wait(cluster, made[0], 5, _mute)
    servers.wait_gone(cluster, servers.remove(cluster, before, pause=True), 5, _mute)
    left = {"kserve": {"inferenceservices/yoga"}, "rayserve": {"rayservices/yoga", "ingresses/yoga-servers"}}
    assert api.names() == {*left[second], "poddisruptionbudgets/yoga-servers"}
    assert servers.former(cluster, made[0]) is None


def test_all_that_serves_is_removed_and_what_isnt_there_is_said(api: ApiServer) -> None:
    cluster = Cluster()
    servers.deploy(cluster, _made(min=2, max=2))
    servers.deploy(cluster, _made(backend="rayserve"))
    assert len(api.kept) == 4
    going = [each for service in servers.deployed(cluster, "yoga") for each in servers.remove(cluster, service)]
    servers.wait_gone(cluster, going, 5, _mute)
    assert [servers.called(each) for each in going] == [
        "InferenceService yoga",
        "PodDisruptionBudget yoga-servers",
        "RayService yoga",
        "Ingress yoga-servers",
    ]
    assert api.names() == set()
    for name in ("yoga", "", "a/b", "A"):
        with pytest.raises(NotFound, match=f"namespace studio: nothing serves '{name}'"):
            servers.deployed(cluster, name)


def test_what_somebody_else_made_is_left_alone(api: ApiServer) -> None:
    service = _made()[0]
    theirs = {**service, "metadata": {"name": "yoga", "labels": {"vitruvian.dev/classifier": "yoga"}}}
    api.keep("inferenceservices", theirs)
    cluster = Cluster()
    for act in (lambda: servers.deploy(cluster, _made()), lambda: servers.deployed(cluster, "yoga")):
        with pytest.raises(VitruvianError, match="InferenceService yoga: is there, and 'vitruvian deploy' didn't make"):
            act()
    assert servers.former(cluster, _made(backend="rayserve")[0]) is None
    assert api.kept["inferenceservices", "yoga"]["metadata"]["generation"] == 1


def test_without_rights_to_look_deploying_goes_on_and_removing_says_so(api: ApiServer) -> None:
    api.forbidden |= {("get", "rayservices"), ("get", "poddisruptionbudgets"), ("delete", "horizontalpodautoscalers")}
    cluster = Cluster()
    made = _made(max=3, queueLength=1)
    assert servers.former(cluster, made[0]) is None
    servers.deploy(cluster, made)
    assert readiness.wait(cluster, made[0], 5, _mute) == "http://yoga.kserve"
    (service,) = servers.deployed(cluster, "yoga")
    servers.wait_gone(cluster, servers.remove(cluster, service), 5, _mute)
    assert api.names() == set(), "what may not be deleted goes with its owner"
    with pytest.raises(NotAllowed, match="rayservices is forbidden"):
        servers.deployed(cluster, "yoga")


def test_a_cluster_without_one_of_the_backends_serves_with_the_other(api: ApiServer) -> None:
    api.unknown.add("serving.kserve.io/v1beta1")
    cluster = Cluster()
    made = _made(backend="rayserve")
    assert servers.former(cluster, made[0]) is None
    servers.deploy(cluster, made)
    assert readiness.wait(cluster, made[0], 5, _mute) == "http://yoga-studio.example.com"
    (service,) = servers.deployed(cluster, "yoga")
    servers.remove(cluster, service)
    with pytest.raises(VitruvianError, match=r"the cluster has no InferenceService.*install KServe"):
        servers.deploy(cluster, _made())


def test_what_doesnt_go_is_named_in_time(api: ApiServer) -> None:
    cluster = Cluster()
    servers.deploy(cluster, _made())
    heard: list[str] = []
    with pytest.raises(VitruvianError, match=r"InferenceService yoga: isn't gone after 0 s.*describe inferenceservice"):
        servers.wait_gone(cluster, servers.deployed(cluster, "yoga"), 0, heard.append)
    assert heard == ["waiting for InferenceService yoga to go"]


def test_a_version_that_pods_cant_fetch_ends_the_waiting_with_their_reason(api: ApiServer) -> None:
    api.status["InferenceService"]["conditions"] = [{"type": "PredictorReady", "status": "False", "reason": "Waits"}]
    cluster = Cluster()
    made = _made(NEW)
    servers.deploy(cluster, made)

    def pod(name: str, version: str) -> Object:
        state = {"terminated": {"exitCode": 1, "message": f"✗ s3://models/yoga/bundles/{version}: there is no bundle"}}
        labels = {"serving.kserve.io/inferenceservice": "yoga"}
        status = {"initContainerStatuses": [{"ready": False, "state": state}]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "status": status}

    api.keep("pods", pod("yoga-1", OLD))
    with pytest.raises(VitruvianError, match=r"isn't ready after 0 s: PredictorReady: Waits; see 'kubectl"):
        readiness.wait(cluster, made[0], 0, _mute)
    api.keep("pods", pod("yoga-2", NEW))
    with pytest.raises(VitruvianError, match=f"yoga: version {NEW} can't be served: s3.*bundles/{NEW}: there is no"):
        readiness.wait(cluster, made[0], 60, _mute)
    api.forbidden.add(("list", "pods"))
    with pytest.raises(VitruvianError, match="isn't ready after 0 s: PredictorReady: Waits"):
        readiness.wait(cluster, made[0], 0, _mute)


def test_a_first_ray_cluster_whose_server_fails_says_why(api: ApiServer) -> None:
    said = f"Traceback:\n  File x\nvitruvian.errors.BundleError: s3://models/yoga/bundles/{NEW}: there is no bundle\n…"
    server = {"Server": {"status": "DEPLOY_FAILED", "message": said}}
    whole = {"status": "DEPLOY_FAILED", "message": "Failed to update.", "serveDeploymentStatuses": server}
    failed = {"applicationStatuses": {"yoga": whole}}
    api.status["RayService"] = {"observedGeneration": 0, "activeServiceStatus": {}, "pendingServiceStatus": failed}
    cluster = Cluster()
    made = _made(NEW, backend="rayserve")
    servers.deploy(cluster, made)
    with pytest.raises(VitruvianError, match=f"served: Serve: DEPLOY_FAILED s3://models/yoga/bundles/{NEW}: there is"):
        readiness.wait(cluster, made[0], 60, _mute)


def test_a_cluster_too_old_for_what_is_applied_is_named(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "failed to create typed patch object: .spec.predictor.storageContainerName: field not declared in schema"
    cluster = Cluster()
    servers.deploy(cluster, _made())
    answer = api.answer

    def older(method: str, *words: Any) -> tuple[int, Object]:
        return (500, {"message": message}) if method == "PATCH" else answer(method, *words)

    monkeypatch.setattr(api, "answer", older)
    with pytest.raises(
        VitruvianError, match=r"InferenceService yoga.*storageContainerName.*too old: 'vitruvian doctor'"
    ):
        servers.deploy(cluster, _made())


def test_where_the_chart_left_nothing_pods_need_nothing_of_it(api: ApiServer) -> None:
    assert administered(TrainerSettings, Cluster()) == TrainerSettings(service_account=None)
    config = {"metadata": {"name": "vitruvian-trainer"}, "data": {"settings.yaml": "attempts: 7"}}
    api.keep("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", **config})
    assert administered(TrainerSettings, Cluster()) == TrainerSettings(attempts=7)


PODS = [
    ({}, ""),
    ({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes\nfit"}]}, "0/1 nodes fit"),
    ({"containerStatuses": [{"ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
    (
        {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]},
        "ErrImagePull not found",
    ),
    ({"initContainerStatuses": [{"ready": False, "state": FAILED}]}, "s3://m/y/bundles/1: no bundle; x"),
    (
        {
            "initContainerStatuses": [
                {"ready": True, "state": {"terminated": {"exitCode": 0}}},
                {"ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": FAILED},
            ]
        },
        "s3://m/y/bundles/1: no bundle; x",
    ),
    (
        {"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
        "OOMKilled (exit code 137)",
    ),
    ({"containerStatuses": [{"ready": True, "state": {"running": {}}, "lastState": FAILED}]}, ""),
]


@pytest.mark.parametrize(("status", "told"), PODS)
def test_what_keeps_a_pod_from_starting_is_one_line(status: Object, told: str) -> None:
    assert obstacle({"metadata": {"name": "yoga-1"}, "status": status}) == told


def test_a_version_that_isnt_there_is_refused_before_anything_is_applied(tmp_path: Path) -> None:
    (tmp_path / "bundles" / OLD).mkdir(parents=True)
    (tmp_path / "bundles" / OLD / "checksums.json").write_text("{}")
    classifier = _declared(str(tmp_path))
    (tmp_path / "champion.json").write_text(f'{{"version": "{NEW}"}}')
    for version in (NEW, None):
        with pytest.raises(BundleError, match=f"there is no version {NEW}; see what there is"):
            servers.objects(classifier, version, "studio", RayServeSettings())
    with pytest.raises(BundleError, match="'latest' is no version"):
        servers.objects(classifier, "latest", "studio", RayServeSettings())


def test_a_version_that_cant_be_looked_up_is_deployed_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    heard: list[str] = []
    made = servers.objects(_declared("s3://models/yoga"), OLD, "studio", RayServeSettings(), heard.append)
    assert made[0]["spec"]["predictor"]["model"]["storageUri"] == f"s3://models/yoga/bundles/{OLD}"
    assert heard == [f"version {OLD} is not looked up from here: no AWS credentials were found"]


def test_what_somebody_else_deployed_meanwhile_is_not_taken_for_this(api: ApiServer) -> None:
    cluster = Cluster()
    mine = _made(OLD)
    servers.deploy(cluster, mine)
    servers.deploy(cluster, _made(NEW))
    with pytest.raises(
        VitruvianError, match=f"yoga: version {OLD} doesn't serve: version {NEW} was deployed meanwhile"
    ):
        readiness.wait(cluster, mine[0], 60, _mute)
    cluster.delete(mine[0]["apiVersion"], mine[0]["kind"], "yoga")
    with pytest.raises(VitruvianError, match="InferenceService yoga: was removed meanwhile"):
        readiness.wait(cluster, mine[0], 60, _mute)


def test_without_the_charts_runtime_nobody_waits(api: ApiServer) -> None:
    unknown = {"lastFailureInfo": {"reason": "RuntimeNotRecognized", "message": "no ServingRuntimes"}}
    api.status["InferenceService"] = {"modelStatus": unknown}
    cluster = Cluster()
    made = _made(NEW)
    servers.deploy(cluster, made)
    with pytest.raises(VitruvianError, match="KServe finds no ServingRuntime vitruvian; install the chart there"):
        readiness.wait(cluster, made[0], 60, _mute)


def test_pods_that_cant_even_be_made_say_why(api: ApiServer) -> None:
    api.status["InferenceService"]["conditions"] = [{"type": "IngressReady", "status": "False", "reason": "Waits"}]
    cluster = Cluster()
    made = _made(NEW)
    servers.deploy(cluster, made)
    said = 'serviceaccount "vitruvian-server" not found'
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": said}]
    labels = {"serving.kserve.io/inferenceservice": "yoga"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "yoga-predictor", "labels": labels},
    }
    api.keep("deployments", {**deployment, "status": {"conditions": conditions}})
    with pytest.raises(VitruvianError, match=f"IngressReady: Waits; {said}"):
        readiness.wait(cluster, made[0], 0, _mute)


def test_the_labels_and_annotations_of_the_declaration_are_on_what_serves() -> None:
    metadata = {
        "name": "yoga",
        "labels": {"team": "studio", "vitruvian.dev/classifier": "other"},
        "annotations": {"cost": "17", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }
    parts = {"data": {"source": "s3://d/y"}, "model": {"architecture": "vit"}, "artifacts": "s3://models/yoga"}
    classifier = spec.parse(yaml.safe_dump({"metadata": metadata, "spec": parts}))
    served, *_ = servers.serving_objects(classifier, f"s3://m/bundles/{OLD}", OLD, "studio", RayServeSettings())
    assert served["metadata"]["labels"]["team"] == "studio"
    assert served["metadata"]["labels"]["vitruvian.dev/classifier"] == "yoga"
    assert served["metadata"]["annotations"]["cost"] == "17"
    assert not any(name.startswith("kubectl") for name in served["metadata"]["annotations"])
