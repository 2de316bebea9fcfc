"""What the doctor makes of what it saw, and that nothing it looks at can keep it waiting."""

from __future__ import annotations

import re
import socket
import threading
import time
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.apiserver import api_server, kubeconfig, use
from vitruvian.cluster.look import Look
from vitruvian.cluster.objects import number
from vitruvian.cluster.raypods import RAY_VERSION
from vitruvian.cluster.settings import TrainerSettings
from vitruvian.doctor import client, cluster, storage
from vitruvian.doctor.console import machine_readable, show
from vitruvian.doctor.finding import Check, Finding, Report, carry_out, error, note, ok, version_of, warning
from vitruvian.doctor.quantity import Pod, fits, pods_of
from vitruvian.errors import NotAllowed, StoreError

ROOT = Path(__file__).parents[2]
ALL_KINDS = {"RayCluster", "RayJob", "RayService"}
KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def deployment(
    image: str = "quay.io/kuberay/operator:v1.6.2", ready: int = 1, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    return {
        "metadata": {"name": "kuberay-operator", "namespace": "ray-system", "labels": labels or {}},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"availableReplicas": ready},
    }


def node(cpu: str = "4", memory: str = "16Gi", gpus: int = 0, **spec: Any) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": memory, "nvidia.com/gpu": str(gpus)}
    return {"metadata": {"labels": {"pool": "cpu"}}, "spec": spec, "status": {"allocatable": allocatable}}


def marked(**annotations: str) -> dict[str, Any]:
    return {"metadata": {"annotations": annotations or None}}


ROLE = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}
OF_A_RELEASE = {"meta.helm.sh/release-name": "v", "meta.helm.sh/release-namespace": "studio"}


def fetcher(name: str, prefix: str = "s3://", **annotations: str) -> dict[str, Any]:
    metadata = {"name": name, "annotations": annotations}
    return {"metadata": metadata, "spec": {"supportedUriFormats": [{"prefix": "gs://"}, {"prefix": prefix}]}}


OURS = fetcher("vitruvian", **OF_A_RELEASE)
NO_KSERVE = cluster.switched_off(marked(**{"vitruvian.dev/off": "kserve.enabled kserve.storageContainer"}))
NO_FETCHER = cluster.switched_off(marked(**{"vitruvian.dev/off": "kserve.storageContainer"}))
RIGHT = ("create", "ray.io", "rayjobs")
TAINT = {"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}
GPU_POD = Pod("a worker", {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"})
HEAD = Pod("the head", {"cpu": "2", "memory": "8Gi"})


@pytest.mark.parametrize(
    ("finding", "level", "told"),
    [
        (client.python((3, 11, 7)), "ok", "3.11.7"),
        (client.python((3, 10, 1)), "error", "too old"),
        (client.vitruvian("0.1.0"), "ok", "0.1.0"),
        (client.vitruvian(None), "warning", "pip install ."),
        (client.extra("train", {"torch": "2.15.0", "ray": "2.60.0"}), "ok", "torch 2.15.0, ray 2.60.0"),
        (client.extra("train", {"torch": None, "ray": "2.60.0"}), "note", "pip install '.[train]'"),
        (client.extra("cluster", {"kubernetes": None}), "error", "pip install '.[cluster]'"),
        (client.ray(RAY_VERSION), "ok", RAY_VERSION),
        (client.ray("2.9.0"), "warning", f"=={RAY_VERSION}"),
        (client.ray(None), "note", "not installed"),
        (client.tool("kubectl", "v1.34.4"), "ok", "1.34.4"),
        (client.tool("helm", None), "note", "helm.sh"),
        (cluster.api_server("v1.34.4-eks-1", "https://host"), "ok", "1.34.4-eks-1 at https://host"),
        (cluster.api_server("v1.29.9", "https://host"), "error", "1.30 or newer"),
        (cluster.namespace(None, "studio"), "error", "kubectl create namespace studio"),
        (cluster.namespace({"metadata": {}, "status": {"phase": "Terminating"}}, "studio"), "error", "being deleted"),
        (cluster.namespace({"metadata": {}, "status": {"phase": "Active"}}, "studio"), "ok", "studio"),
        (cluster.rights({"train": [], "deploy": []}), "ok", "may submit, status, logs, cancel, deploy"),
        (cluster.rights({"train": [], "deploy": [RIGHT]}), "warning", "deploy: lacks create rayjobs.ray.io"),
        (
            cluster.rights(
                {"train": [("get", "", "pods/log"), ("list", "", "pods"), ("get", "", "pods")], "deploy": []}
            ),
            "warning",
            "lacks get pods/log; list, get pods",
        ),
        (cluster.rights({"train": [RIGHT], "deploy": []}), "warning", "trainer.submitters"),
        (cluster.rights({"train": [RIGHT], "deploy": [RIGHT]}), "error", "may not submit, status, logs, cancel"),
        (cluster.storage_class([]), "note", "no default"),
        (cluster.classifiers(False, [], "studio"), "note", "crd.install and operator.enabled"),
        (cluster.classifiers(True, [], "studio"), "note", "nobody looks after the Classifiers of namespace studio"),
        (
            cluster.classifiers(True, [deployment(ready=0)], "studio"),
            "warning",
            "kubectl -n studio describe deployment",
        ),
        (cluster.classifiers(True, [deployment()], "studio"), "ok", "looks after the Classifiers of namespace studio"),
        (cluster.kuberay([], None), "error", "helm install kuberay-operator"),
        (cluster.kuberay({"RayCluster", "RayJob"}, deployment()), "error", "lacks RayService"),
        (cluster.kuberay(ALL_KINDS, None), "error", "its operator isn't there"),
        (cluster.kuberay(ALL_KINDS, deployment(ready=0)), "error", "describe deployment kuberay-operator"),
        (cluster.kuberay(ALL_KINDS, deployment("x/operator:v1.3.0")), "error", "1.3.0 is too old"),
        (cluster.kuberay(ALL_KINDS, deployment()), "ok", "1.6.2 in namespace ray-system"),
        (cluster.kuberay(ALL_KINDS, deployment("x/operator:f00")), "ok", "tells no version"),
        (cluster.kserve([], None, "", None), "error", "kserve.github.io"),
        (cluster.kserve([], None, "", "kserve"), "error", "Standard mode"),
        (cluster.kserve([], None, "", "rayserve"), "note", "Ray Serve"),
        (cluster.kserve([], None, "", None, NO_KSERVE), "note", "not installed; off: kserve.enabled is false"),
        (cluster.kserve([], None, "", "kserve", NO_KSERVE), "error", "kserve.github.io"),
        (cluster.kserve(["TrainedModel"], None, "", None), "error", "no InferenceService"),
        (cluster.kserve(["InferenceService"], deployment("x:v0.19.0"), "", None), "error", "0.20 or newer"),
        (cluster.kserve(["InferenceService"], deployment("x:v0.20.0"), "Standard", None), "ok", "Standard mode"),
        (cluster.no_settings("settings", "vitruvian-trainer", "n"), "error", "helm install vitruvian charts/vitruvian"),
        (cluster.s3_keys({"s3": None}, set(), False, "studio", False), "warning", "create secret generic s3"),
        (cluster.s3_keys({"s3": None}, set(), True, "studio", False), "ok", "role"),
        (cluster.s3_keys({"s3": {"AWS_ACCESS_KEY_ID"}}, set(), False, "n", False), "error", "AWS_SECRET_ACCESS_KEY is"),
        (cluster.s3_keys({"s3": KEYS}, set(), False, "n", False), "ok", "Amazon's S3"),
        (cluster.s3_keys({"s3": KEYS}, set(), False, "n", True), "warning", "not for pods"),
        (cluster.s3_keys({"s3": KEYS}, {"AWS_ENDPOINT_URL"}, False, "n", True), "ok", "AWS_ENDPOINT_URL"),
        (cluster.room([HEAD], [node()]), "ok", "the head (2 CPUs, 8 GiB) fits"),
        (cluster.room([HEAD], [node(memory="7Gi")]), "warning", "fits on no node: 4 CPUs, 7 GiB"),
        (cluster.room([HEAD], [node(unschedulable=True)]), "warning", "may run on none of 1 nodes"),
        (cluster.room([HEAD], []), "warning", "none of 0 nodes"),
        (cluster.gpus(0, 0, ""), "note", "training is on CPUs"),
        (cluster.gpus(0, 2, ""), "ok", "2"),
        (cluster.gpus(4, 2, "GPU operator"), "error", "4 wanted, nodes offer 2 (GPU operator)"),
        (cluster.gpus(4, 0, ""), "error", "helm install gpu-operator"),
        (cluster.gpus(2, 2, "nvidia-device-plugin"), "ok", "2 (nvidia-device-plugin), 2 wanted"),
        (cluster.kueue("team", False, False), "error", "kueue.sigs.k8s.io"),
        (cluster.kueue("team", True, False), "error", "no LocalQueue team"),
        (cluster.kueue("team", True, True), "ok", "team"),
        (cluster.runtime(None, None), "error", "comes with the chart"),
        (cluster.runtime(None, "rayserve"), "note", "Ray Serve"),
        (cluster.runtime("ServingRuntime", None), "ok", "ServingRuntime vitruvian"),
        (cluster.runtime(None, None, NO_KSERVE), "note", "off: kserve.enabled is false in the chart's values"),
        (cluster.runtime(None, "kserve", NO_KSERVE), "error", "off: kserve.enabled is false in the chart's values set"),
        (cluster.runtime(None, "rayserve", NO_KSERVE), "note", "Ray Serve needs none"),
        (cluster.runtime("ClusterServingRuntime", None, NO_KSERVE), "ok", "ClusterServingRuntime vitruvian"),
        (cluster.service_account("server account", "s", None), "error", "no ServiceAccount s"),
        (cluster.service_account("server account", "s", marked()), "ok", "s"),
        (cluster.service_account("trainer account", "t", marked(**ROLE)), "ok", "t, role arn:aws:iam::1:role/x"),
        (cluster.old_account("s", "studio"), "warning", "kubectl -n studio delete serviceaccount vitruvian"),
        (cluster.endpoint_unseen("server S3 keys", "ro"), "error", "S3_ENDPOINT"),
        (cluster.storage_container([], None, None, "n"), "error", "helm upgrade"),
        (cluster.storage_container([fetcher("default")], None, None, "n"), "error", "KServe makes no server's pod"),
        (cluster.storage_container([], None, "rayserve", "n"), "note", "Ray Serve"),
        (cluster.storage_container([], None, None, "n", NO_KSERVE), "note", "off: kserve.enabled"),
        (cluster.storage_container([], None, "kserve", "n", NO_KSERVE), "error", "off: kserve.enabled"),
        (cluster.storage_container([], None, None, "n", NO_FETCHER), "error", "no other release makes it"),
        (cluster.storage_container([OURS], None, None, "n", NO_FETCHER), "ok", "of release v in namespace studio"),
        (cluster.storage_container([OURS], None, None, "n"), "ok", "of release v in namespace studio"),
        (cluster.storage_container([OURS], None, None, "studio"), "ok", "vitruvian: every file"),
        (cluster.storage_container([OURS, fetcher("default")], (0, 20, 0), None, "studio"), "ok", "every file"),
        (cluster.storage_container([OURS, fetcher("default")], None, None, "studio"), "ok", "every file"),
        (cluster.storage_container([OURS, fetcher("hf", "hf://")], (0, 16, 0), None, "n"), "ok", "every file"),
        (cluster.storage_container([OURS, fetcher("default")], (0, 16, 0), None, "n"), "warning", "default takes s3:"),
        (cluster.metrics_server(False, False), "warning", "components.yaml"),
        (cluster.metrics_server(True, False), "warning", "doesn't answer"),
        (cluster.metrics_server(True, True), "ok", "answers"),
        (cluster.queue_metric(False, True), "error", "prometheus-adapter"),
        (cluster.queue_metric(False, False), "note", "only replicas.queueLength"),
        (cluster.way_in([], []), "note", "inside the cluster only"),
        (cluster.way_in(["nginx"], ["istio"]), "ok", "Ingress nginx; Gateway API istio"),
        (cluster.pod_monitor(False), "note", "no Prometheus operator"),
        (storage.data("synthetic://poses"), "ok", "no store"),
        (storage.data("data/yoga"), "warning", "s3://BUCKET/PREFIX"),
        (storage.writable("artifacts/yoga"), "warning", "spec.artifacts"),
    ],
)
def test_every_lack_is_weighed_and_has_a_remedy(finding: Finding, level: str, told: str) -> None:
    assert finding.level == level
    assert told in " ".join((finding.found, finding.hint, finding.command))
    if level in ("warning", "error"):
        assert finding.hint or finding.command


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("100m", 0.1),
        ("2", 2),
        ("3Gi", 3 * 2**30),
        ("24479284Ki", 24479284 * 1024),
        ("1e3", 1000),
        ("2M", 2e6),
        ("?", 0),
    ],
)
def test_quantities_mean_what_kubernetes_means(quantity: str, value: float) -> None:
    assert float(number(quantity)) == value


@pytest.mark.parametrize(
    ("tolerations", "labels", "fit"),
    [
        ((), {}, False),
        (({"key": "nvidia.com/gpu", "operator": "Exists"},), {}, True),
        (({"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"},), {}, True),
        (({"operator": "Exists"},), {"pool": "cpu"}, True),
        (({"operator": "Exists"},), {"pool": "gpu"}, False),
        (({"key": "spot", "operator": "Exists"},), {}, False),
    ],
)
def test_a_pod_fits_only_where_taints_and_labels_let_it(
    tolerations: tuple[dict[str, str], ...], labels: dict[str, str], fit: bool
) -> None:
    pod = Pod(GPU_POD.what, GPU_POD.requests, labels, tolerations)
    assert fits(pod, node(gpus=1, taints=[TAINT])) is fit
    assert not fits(pod, node(gpus=0))


def test_one_process_needs_no_room_for_workers() -> None:
    assert [pod.what for pod in pods_of(TrainerSettings(), workers=False)] == ["the head"]
    assert pods_of(TrainerSettings(), workers=True, gpus=2)[1].requests["nvidia.com/gpu"] == "2"


@pytest.mark.parametrize(
    ("image", "labels", "version"),
    [
        ("quay.io:5000/kuberay/operator:v1.6.2", {}, (1, 6, 2)),
        ("kserve/kserve-controller:v0.16.0@sha256:00", {}, (0, 16, 0)),
        ("x:latest", {"app.kubernetes.io/version": "1.5.1"}, (1, 5, 1)),
        ("x@sha256:12", {"helm.sh/chart": "kuberay-operator-1.4.2"}, (1, 4, 2)),
        ("test-cluster/kuberay:5c6c34a8a66f", {}, None),
    ],
)
def test_a_version_is_read_from_the_image_or_the_labels(
    image: str, labels: dict[str, str], version: tuple[int, ...] | None
) -> None:
    assert cluster.version_of_deployment(deployment(image, labels=labels)) == version


def test_what_is_too_old_is_what_the_chart_the_docs_and_the_package_say() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "vitruvian" / "Chart.yaml").read_text())
    assert version_of(chart["kubeVersion"].removeprefix(">=")[:4]) == cluster.OLDEST_KUBERNETES
    page = " ".join((ROOT / "docs" / "kubernetes.md").read_text().split())
    for name, oldest in (
        ("Kubernetes", cluster.OLDEST_KUBERNETES),
        ("KubeRay", cluster.OLDEST_KUBERAY),
        ("KServe", cluster.OLDEST_KSERVE),
    ):
        told = re.search(rf"{name} (\d+(?:\.\d+)+) or newer", page)
        assert told and version_of(told[1]) == oldest
    assert metadata.metadata("vitruvian")["Requires-Python"] == ">=" + ".".join(map(str, client.OLDEST_PYTHON))


@pytest.mark.parametrize(
    ("uris", "more", "taken"),
    [
        ({"prefix": "s3://"}, {}, True),
        ({"prefix": "s3://"}, {"disabled": True}, False),
        ({"prefix": "s3://"}, {"spec": {"workloadType": "localModelDownloadJob"}}, False),
        ({"prefix": "gs://"}, {}, False),
        ({"regex": "https?://(.+)/(.+)"}, {}, False),
        ({"regex": "^s3://.+/bundles/[0-9a-f]{12}$"}, {}, True),
        ({"regex": "(?P<"}, {}, False),
        ({}, {}, False),
    ],
)
def test_who_else_takes_bundles_is_told_as_kserve_would(
    uris: dict[str, str], more: dict[str, Any], taken: bool
) -> None:
    spec = {"supportedUriFormats": [uris], **more.get("spec", {})}
    assert cluster.takes_bundles({"metadata": {"name": "x"}, **more, "spec": spec}) is taken


@pytest.mark.parametrize(
    ("keys", "annotations", "found"),
    [
        (KEYS, {}, True),
        (KEYS | {"AWS_ENDPOINT_URL"}, {}, False),
        (KEYS | {"AWS_ENDPOINT_URL", "S3_ENDPOINT"}, {}, True),
        (KEYS | {"AWS_ENDPOINT_URL"}, {"serving.kserve.io/s3-endpoint": "s3:9000"}, True),
    ],
)
def test_an_endpoint_that_kserve_does_not_hand_on_is_found_out(
    keys: set[str], annotations: dict[str, str], found: bool
) -> None:
    assert cluster.kserve_finds_endpoint({**marked(**annotations), "data": dict.fromkeys(keys, "")}) is found


def test_an_extras_libraries_are_the_packages_own() -> None:
    requires = ['torch; extra == "train"', 'ray[default,train]>=2; extra == "train"', "boto3", 'x; extra == "trainer"']
    assert client.libraries(requires, "train") == ["torch", "ray"]


def test_a_look_that_hangs_fails_or_is_forbidden_is_one_line_and_the_others_are_told() -> None:
    def forbidden() -> Finding:
        raise NotAllowed("nodes")

    def broken() -> Finding:
        raise StoreError("it broke", where="there", hint="mend it")

    def hangs() -> Finding:
        time.sleep(30)
        return ok("hangs", "")

    looks = {"fine": lambda: ok("fine", "1.0"), "forbidden": forbidden, "broken": broken, "hangs": hangs}
    began = time.monotonic()
    report = carry_out([Check("section", name, look) for name, look in looks.items()], patience=0.5)
    assert time.monotonic() - began < 5
    fine, seen, told, late = [finding for _, finding in report.findings]
    assert fine.level == "ok"
    assert (seen.level, seen.found) == ("warning", "not allowed to look at nodes")
    assert (told.level, told.found, told.hint) == ("warning", "can't be told: it broke (there)", "mend it")
    assert (late.name, late.level) == ("hangs", "warning")
    assert not report.missing
    assert report.unseen == 1


def test_what_is_essential_and_never_answers_is_missing() -> None:
    never = threading.Event()

    def waits() -> Finding:
        never.wait()
        return ok("artifacts", "")

    assert carry_out([Check("S3", "artifacts", waits, late=error)], patience=0.1).missing == ["artifacts"]
    never.set()


def test_an_api_server_that_is_silent_costs_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        named = {"cluster": "c", "user": "u", "namespace": "studio"}
        config = {
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": named}],
            "current-context": "x",
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        from kubernetes.config import kube_config

        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
        began = time.monotonic()
        report = carry_out(cluster.checks(None, None, None))
    assert time.monotonic() - began < 9
    chosen, lost = [finding for _, finding in report.findings]
    assert chosen.found == "context x, namespace studio"
    assert lost.level == "error" and address in lost.found and "can't be reached" in lost.found


@pytest.mark.parametrize(
    ("off", "level"), [(None, "error"), ("kserve.storageContainer", "error"), ("kserve.enabled", "note")]
)
def test_what_the_release_has_switched_off_is_not_missing(
    off: str | None, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {"name": "vitruvian-trainer", "annotations": {"vitruvian.dev/off": off} if off else {}}
    with api_server() as api:
        (tmp_path / "config").write_text(kubeconfig(api.url))
        use(monkeypatch, tmp_path / "config")
        api.keep("configmaps", {"kind": "ConfigMap", "metadata": metadata, "data": {"settings.yaml": "attempts: 2"}})
        api.unknown.add("serving.kserve.io/v1beta1")
        report = carry_out(cluster._looks(Look(), None))
    found = {finding.name: finding for _, finding in report.findings}
    assert found["settings"].level == "ok"
    assert {found[name].level for name in ("KServe", "runtime", "bundle fetcher")} == {level}
    assert ("off: kserve" in found["bundle fetcher"].found) is (off is not None)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal_and_commands_stay_in_one_piece(width: int) -> None:
    command = "helm install kuberay-operator kuberay-operator --repo https://example.com --create-namespace"
    findings = [ok("API server", "Kubernetes 1.34"), error("KubeRay", "not " * 30, "install it:", command)]
    findings += [note("GPUs", "none"), warning("rights", "[red]few[/] :smile:", "ask")]
    out = StringIO()
    show(Console(file=out, width=width, force_terminal=True, no_color=True, emoji=False), _report(findings))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in out.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines if command not in line)
    assert sum(command in line for line in lines) == 1
    assert any("[red]few[/] :smile:" in line for line in lines), "what is found is shown as it is"
    assert "missing: KubeRay; 1 warning" in lines[-1]


def test_programs_get_the_same_findings() -> None:
    found = yaml.safe_load(machine_readable(_report([ok("a", "1"), error("b", "gone", "get it", "run this")])))
    assert found["ok"] is False
    assert found["findings"][1] == {
        "section": "section",
        "name": "b",
        "level": "error",
        "found": "gone",
        "hint": "get it",
        "command": "run this",
    }


def _report(findings: list[Finding]) -> Report:
    return Report(tuple(("section", finding) for finding in findings))
