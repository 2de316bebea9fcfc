"""The chart, rendered without a cluster: who may do what in S3, and what of a server is seen from outside."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bundles import make_bundle
from vitruvian import spec
from vitruvian.cluster.raypods import measured
from vitruvian.cluster.rayservice import ray_service
from vitruvian.cluster.settings import Ingress, RayServeSettings, TrainerSettings, parse
from vitruvian.doctor.cluster import switched_off
from vitruvian.inference.app import create_app
from vitruvian.inference.predictor import Predictor

CHART = Path(__file__).parents[2] / "charts" / "vitruvian"
SERVER = {"enabled": True, "bundle": "s3://models/yoga"}
SCALED = {"autoscaling": {"enabled": True}}
KEYS = {"create": True, "accessKeyId": "writes", "secretAccessKey": "w"}
READ_ONLY = {"serverSecret": "read-only", "serverAccessKeyId": "reads", "serverSecretAccessKey": "r"}
PORTS = {"http": 8080, "grpc": 8081, "admin": 9090}
Objects = dict[tuple[str, str], dict[str, Any]]

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="needs helm on the PATH")


def helm(values: dict[str, Any], release: str = "v", kinds: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Render these values as on a cluster that knows these kinds, where there are any."""
    text = json.dumps(values)
    known = [word for kind in kinds for word in ("--api-versions", kind)]
    command = ["helm", "template", release, str(CHART), "-n", "studio", "-f", "-", *known]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def made(release: str = "v", **values: Any) -> Objects:
    """Return what the chart makes of these values, by kind and name."""
    done = helm(values, release)
    assert done.returncode == 0, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}


def settings_of(objects: Objects, name: str) -> str:
    return str(objects["ConfigMap", name]["data"]["settings.yaml"])


@pytest.mark.parametrize("secrets", [{}, READ_ONLY], ids=["one Secret", "one for each"])
def test_trainers_and_servers_have_an_account_and_a_secret_of_their_own(secrets: dict[str, Any]) -> None:
    accounts = {duty: {"annotations": {"role": duty}} for duty in ("trainer", "server")}
    found = made(s3=KEYS | secrets, serviceAccounts=accounts, server=SERVER)
    of_servers = secrets.get("serverSecret", "vitruvian-s3")

    trainers = parse(TrainerSettings, settings_of(found, "vitruvian-trainer"), "the chart")
    rayserve = parse(RayServeSettings, settings_of(found, "vitruvian-rayserve"), "the chart")
    pod = found["Deployment", "v-server"]["spec"]["template"]["spec"]
    assert (trainers.service_account, trainers.secrets) == ("vitruvian-trainer", ("vitruvian-s3",))
    assert (rayserve.service_account, rayserve.secrets) == ("vitruvian-server", (of_servers,))
    assert pod["serviceAccountName"] == "vitruvian-server"
    assert [each["secretRef"]["name"] for each in pod["containers"][0]["envFrom"]] == [of_servers]
    # KServe reads there which keys its fetcher gets.
    assert found["ServiceAccount", "vitruvian-server"]["secrets"] == [{"name": of_servers}]
    for duty in accounts:
        account = found["ServiceAccount", f"vitruvian-{duty}"]
        assert account["metadata"]["annotations"] == {"role": duty} and not account["automountServiceAccountToken"]
    keys = {name: one["stringData"]["AWS_ACCESS_KEY_ID"] for (kind, name), one in found.items() if kind == "Secret"}
    assert keys == {"vitruvian-s3": "writes"} | ({"read-only": "reads"} if secrets else {})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"s3": {"endpoint": "http://s3:9000"}}, "s3.endpoint is for the Secret that s3.create makes"),
        ({"s3": {"region": "eu-west-1"}}, "s3.region is for the Secret that s3.create makes"),
        ({"s3": {"accessKeyId": "key"}}, "s3.accessKeyId is for the Secret that s3.create makes"),
        ({"s3": KEYS | {"serverSecret": "read-only"}}, "s3.serverAccessKeyId is needed with s3.create"),
        ({"serviceAccount": {"annotations": {"role": "x"}}}, "serviceAccounts.trainer.annotations"),
        ({"serviceAccounts": {"tester": {}}}, "additional properties 'tester' not allowed"),
        ({"server": SERVER | {"bundle": "models/yoga"}}, "server.bundle is models/yoga, where pods find nothing"),
        ({"server": SERVER | {"bundle": "file:///models"}}, "give s3://BUCKET/PREFIX"),
        (
            {"server": SERVER | {"ingress": {"enabled": True, "tlsSecret": "tls"}}},
            "server.ingress.host, which is not set",
        ),
        ({"server": SERVER | SCALED | {"replicas": 11}}, "server.replicas is 11, the least"),
        ({"server": SERVER | SCALED | {"resources": None}}, "server.resources.requests.cpu, which is not set"),
        ({"server": SERVER | SCALED | {"resources": {"requests": {"cpu": None}}}}, "or cpuPercent to null"),
        ({"server": {"startupSeconds": 1_000_000}}, "server/startupSeconds"),
        ({"server": {"replicas": 1_000_000}}, "server/replicas"),
        ({"server": {"autoscaling": {"maxReplicas": 1_000_000}}}, "server/autoscaling/maxReplicas"),
        ({"fullnameOverride": "a.b"}, "fullnameOverride"),
    ],
)
def test_what_would_do_nothing_is_refused_in_one_line(values: dict[str, Any], told: str) -> None:
    done = helm(values)
    assert done.returncode != 0 and told in done.stderr


@pytest.mark.parametrize("release", ["123", "a.b"])
def test_a_release_whose_name_no_service_may_have_needs_another_for_its_servers(release: str) -> None:
    assert (
        f"no Service can be called {release}-server: set fullnameOverride" in helm({"server": SERVER}, release).stderr
    )
    assert ("Service", "yoga-server") in made(release, server=SERVER, fullnameOverride="yoga")
    made(release)


@pytest.mark.parametrize("release", ["true", "null", "1e3", "123", "0x1f"])
def test_a_releases_name_is_text_wherever_it_stands(release: str) -> None:
    served = SERVER | {"autoscaling": {"enabled": True}, "ingress": {"enabled": True, "host": "example.com"}}
    monitoring = {"podMonitor": True, "serviceMonitor": True, "prometheusRule": {"enabled": True}}
    policy: dict[str, Any] = {"serverFrom": [{"podSelector": {}}]}
    named = {} if release.isalpha() else {"fullnameOverride": "yoga"}
    found = made(release, server=served, monitoring=monitoring, networkPolicy=policy, **named)
    told = list(_of_label("app.kubernetes.io/instance", list(found.values())))
    assert len(told) > len(found) and set(told) == {release}
    assert found["PodMonitor", f"{named.get('fullnameOverride', release)}-server"]["spec"]["selector"][
        "matchExpressions"
    ] == [{"key": "app.kubernetes.io/instance", "operator": "NotIn", "values": [release]}]
    assert all(isinstance(name, str) for _, name in found)


def _of_label(key: str, found: Any) -> Iterator[Any]:
    """Yield whatever stands under a key, however deep."""
    if isinstance(found, dict):
        yield from ([found[key]] if key in found else [])
        for below in found.values():
            yield from _of_label(key, below)
    elif isinstance(found, list):
        for below in found:
            yield from _of_label(key, below)


@pytest.mark.parametrize(
    ("server", "wanted"),
    [
        ({"replicas": 1}, False),
        ({"replicas": 2}, True),
        (SCALED, True),
        ({"replicas": 1, "autoscaling": {"enabled": True, "maxReplicas": 1}}, False),
        ({"replicas": 1, "autoscaling": {"enabled": False, "maxReplicas": 10}}, False),
    ],
    ids=["one", "two", "one to ten", "one to one", "one, not scaled"],
)
def test_servers_are_drained_one_by_one_where_there_may_be_more_than_one(server: dict[str, Any], wanted: bool) -> None:
    found = made(server=SERVER | server).get(("PodDisruptionBudget", "v-server"))
    assert (found is not None) == wanted
    if found:
        assert found["spec"]["maxUnavailable"] == 1 and found["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_each_variable_of_a_server_stands_once_and_as_its_user_wrote_it() -> None:
    own = {"HOME": "", "AWS_MAX_ATTEMPTS": 0, "VITRUVIAN_CPUS": 2, "BYTES": 20_000_000, "SHARE": 0.5, "ON": True}
    found = made(server=SERVER | {"env": own | {"TEXT": "1e3"}})
    for container in (
        found["Deployment", "v-server"]["spec"]["template"]["spec"]["containers"][0],
        found["ServingRuntime", "vitruvian"]["spec"]["containers"][0],
    ):
        variables = [(each["name"], each["value"]) for each in container["env"]]
        told = {"HOME": "", "AWS_MAX_ATTEMPTS": "0", "VITRUVIAN_CPUS": "2", "BYTES": "20000000", "SHARE": "0.5"}
        assert sorted(variables) == sorted((told | {"ON": "true", "TEXT": "1e3"}).items())
    names = [each["name"] for each in made()["ServingRuntime", "vitruvian"]["spec"]["containers"][0]["env"]]
    assert sorted(names) == ["AWS_MAX_ATTEMPTS", "HOME", "VITRUVIAN_CPUS"]


def test_large_numbers_are_written_out() -> None:
    scaled = {"enabled": True, "queueLength": 1_000_000, "cpuPercent": None}
    settings = {"ttlSeconds": 300_000_000, "deadlineSeconds": 20_000_000}
    done = helm({"server": SERVER | {"autoscaling": scaled}, "trainer": {"settings": settings}})
    for told in ('averageValue: "1000000"', "ttlSeconds: 300000000\n", "deadlineSeconds: 20000000\n"):
        assert told in done.stdout


@pytest.mark.parametrize("nothing", ["server.resources", "monitoring.dashboards.labels", "networkPolicy.kuberayPods"])
def test_a_value_that_is_taken_away_leaves_nothing_behind(nothing: str) -> None:
    values: dict[str, Any] = {"server": dict(SERVER), "monitoring": {"dashboards": {"enabled": True}}}
    *above, key = nothing.split(".")
    below = values
    for name in above:
        below = below.setdefault(name, {})
    below[key] = None
    done = helm(values)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^\s*null$", done.stdout, re.MULTILINE)


def test_the_values_of_before_there_were_two_accounts_make_two() -> None:
    # What `helm upgrade --reuse-values` gives the templates.
    found = made(serviceAccount={"annotations": {}}, serviceAccounts=None, s3={"region": "us-east-1"})
    accounts = {name for kind, name in found if kind == "ServiceAccount"}
    assert accounts == {"vitruvian-trainer", "vitruvian-server", "vitruvian-operator"}


def test_all_that_a_server_answers_is_public_but_its_metrics(tmp_path: Path) -> None:
    routes = {route.path for route in create_app(Predictor.open(make_bundle(tmp_path))).routes}  # type: ignore[attr-defined]
    outside = {"ingress": {"enabled": True}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}}
    found = made(server=SERVER | outside)
    ingress = found["Ingress", "v-server"]["spec"]["rules"][0]["http"]["paths"]
    (rule,) = found["HTTPRoute", "v-server"]["spec"]["rules"]
    of_ingress = [(each["pathType"], each["path"]) for each in ingress]
    of_route = [(each["path"]["type"].removeprefix("Path"), each["path"]["value"]) for each in rule["matches"]]
    assert of_ingress == of_route == _of_rayserve()
    assert {route for route in routes if not any(_covers(*path, route) for path in of_ingress)} == {"/metrics"}
    assert not _covers("Prefix", "/predict", "/predictions")


def _of_rayserve() -> list[tuple[str, str]]:
    declared = {
        "metadata": {"name": "yoga"},
        "spec": {"data": {"source": "s3://data"}, "model": {"architecture": "vit"}, "artifacts": "s3://models/yoga"},
    }
    settings = RayServeSettings(ingress=Ingress(domain="example.com"))
    made = ray_service(spec.parse(yaml.safe_dump(declared)), "s3://models/yoga/bundles/1", "1", "studio", settings)
    (ingress,) = [each for each in made if each["kind"] == "Ingress"]
    return [(each["pathType"], each["path"]) for each in ingress["spec"]["rules"][0]["http"]["paths"]]


def _covers(kind: str, path: str, route: str) -> bool:
    """Tell whether a path of an Ingress is a route's: a prefix is one of whole parts."""
    return route == path or (kind == "Prefix" and route.startswith(f"{path}/"))


@pytest.mark.parametrize("wanted", [True, False])
def test_annotations_for_prometheus_are_on_all_pods_or_on_none(wanted: bool) -> None:
    found = made(server=SERVER, monitoring={"annotations": wanted})
    pod = found["Deployment", "v-server"]["spec"]["template"]["metadata"]
    annotated = [
        "prometheus.io/scrape" in pod.get("annotations", {}),
        "prometheus.io/scrape" in found["ServingRuntime", "vitruvian"]["spec"].get("annotations", {}),
    ]
    for kind in (TrainerSettings, RayServeSettings):
        settings = parse(kind, settings_of(found, kind.config_map), "the chart")
        ray = measured({"metadata": {}, "spec": {"containers": [{}]}}, {}, settings)
        annotated.append("prometheus.io/scrape" in ray["metadata"].get("annotations", {}))
    assert annotated == [wanted] * 4


def test_kserves_servers_are_spread_each_classifiers_by_themselves() -> None:
    terms = made()["ServingRuntime", "vitruvian"]["spec"]["affinity"]["podAntiAffinity"]
    wanted = [each["podAffinityTerm"] for each in terms["preferredDuringSchedulingIgnoredDuringExecution"]]
    assert [term["topologyKey"] for term in wanted] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert all(term["matchLabelKeys"] == ["serving.kserve.io/inferenceservice"] for term in wanted)
    own: dict[str, Any] = {"nodeAffinity": {}}
    assert made(server={"affinity": own})["ServingRuntime", "vitruvian"]["spec"]["affinity"] == own


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"images": {"server": {"repository": "Vitruvian/server"}}}, "/images/server/repository"),
        ({"images": {"serverRay": {"repository": "vitruvian/server-ray:1"}}}, "/images/serverRay/repository"),
        ({"images": {"trainer": {"tag": "1:2"}}}, "/images/trainer/tag"),
        ({"images": {"trainer": {"tag": "1@sha256:00"}}}, "/images/trainer/tag"),
        ({"trainer": {"settings": {"image": "trainer:1:2"}}}, "/trainer/settings/image"),
        ({"rayserve": {"settings": {"image": "a b"}}}, "/rayserve/settings/image"),
    ],
)
def test_an_image_that_no_registry_takes_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    done = helm(values)
    assert done.returncode and f"at '{named}'" in done.stderr


def test_an_image_may_be_named_by_its_digest() -> None:
    tag = f"1@sha256:{'0' * 64}"
    found = made(images={"trainer": {"repository": "registry.example:5000/vitruvian/trainer", "tag": tag}})
    trainers = parse(TrainerSettings, settings_of(found, "vitruvian-trainer"), "the chart")
    assert trainers.image == f"registry.example:5000/vitruvian/trainer:{tag}"


@pytest.mark.parametrize(
    ("kserve", "off"),
    [
        ({}, set[str]()),
        ({"clusterWide": True}, set[str]()),
        ({"enabled": False}, {"kserve.enabled"}),
        ({"storageContainer": False}, {"kserve.storageContainer"}),
        ({"enabled": False, "storageContainer": False}, {"kserve.enabled", "kserve.storageContainer"}),
    ],
)
def test_the_doctor_is_told_what_is_switched_off(kserve: dict[str, bool], off: set[str]) -> None:
    assert switched_off(made(kserve=kserve)["ConfigMap", "vitruvian-trainer"]) == off


ROUTE = {"enabled": True, "parentRefs": [{"name": "gateway"}]}
NO_KSERVE: dict[str, Any] = {"kserve": {"enabled": False}}
NEEDED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "kserve.enabled", "serving.kserve.io/v1alpha1/ServingRuntime"),
    ({"kserve": {"clusterWide": True}}, "kserve.enabled", "serving.kserve.io/v1alpha1/ClusterServingRuntime"),
    (NO_KSERVE | {"monitoring": {"podMonitor": True}}, "monitoring.podMonitor", "monitoring.coreos.com/v1/PodMonitor"),
    (
        NO_KSERVE | {"monitoring": {"serviceMonitor": True}, "server": SERVER},
        "monitoring.serviceMonitor",
        "monitoring.coreos.com/v1/ServiceMonitor",
    ),
    (
        NO_KSERVE | {"monitoring": {"prometheusRule": {"enabled": True}}},
        "monitoring.prometheusRule.enabled",
        "monitoring.coreos.com/v1/PrometheusRule",
    ),
    (
        NO_KSERVE | {"server": SERVER | {"httpRoute": ROUTE}},
        "server.httpRoute.enabled",
        "gateway.networking.k8s.io/v1/HTTPRoute",
    ),
]


@pytest.mark.parametrize(("values", "value", "kind"), NEEDED, ids=[kind for _, _, kind in NEEDED])
def test_what_a_cluster_lacks_is_named_with_the_value_that_needs_it(
    values: dict[str, Any], value: str, kind: str
) -> None:
    # Every cluster lists its kinds, and ConfigMaps are of every cluster.
    everywhere = ["v1/ConfigMap", "serving.kserve.io/v1alpha1/ClusterStorageContainer"]
    refused = helm(values, kinds=everywhere)
    assert f"the cluster has no {kind}, which {value} needs: install " in refused.stderr
    assert "or set it to false" in refused.stderr and refused.returncode
    for kinds in ([*everywhere, kind], []):
        rendered = helm(values, kinds=kinds)
        assert rendered.returncode == 0, rendered.stderr
        assert kind.rpartition("/")[2] in {one["kind"] for one in yaml.safe_load_all(rendered.stdout) if one}


def test_a_cluster_without_kserve_and_prometheus_takes_the_chart_that_needs_neither() -> None:
    assert helm(NO_KSERVE, kinds=["v1/ConfigMap"]).returncode == 0


def test_servers_that_ask_for_keys_or_speak_tls_show_health_and_metrics_beside() -> None:
    server = SERVER | {"access": {"secret": "who"}, "tls": {"secret": "certificate"}, "grpc": {"enabled": True}}
    found = made(server=server, monitoring={"podMonitor": True})
    pod = found["Deployment", "v-server"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        9090
    }
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == "9090"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod["spec"]["volumes"] if "secret" in each}
    assert secrets == {"access": "who", "tls": "certificate"}
    assert f"--access={mounted['access']}/access.yaml" in container["args"]
    assert f"--tls-cert={mounted['tls']}/tls.crt" in container["args"]
    assert {port["name"]: port["port"] for port in found["Service", "v-server"]["spec"]["ports"]} == PORTS | {
        "http": 80
    }
    allowed = found["NetworkPolicy", "v-server"]["spec"]["ingress"]
    assert {port["port"] for rule in allowed for port in rule["ports"]} == {8080, 8081, 9090}
    # `helm test` has no key.
    assert ("Pod", "v-test") not in found
    assert found["PodMonitor", "v-server-admin"]["spec"]["podMetricsEndpoints"][0]["port"] == "admin"


def test_who_may_ask_holds_for_the_servers_that_deploy_makes_as_well() -> None:
    found = made(server={"access": {"secret": "who"}, "grpc": {"enabled": True}}, monitoring={"podMonitor": True})
    runtime = found["ServingRuntime", "vitruvian"]["spec"]
    (container,) = runtime["containers"]
    # KServe's Service leads to the first port.
    assert next(iter(container["ports"]))["name"] == "http"
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        9090
    }
    assert runtime["annotations"]["prometheus.io/port"] == "9090"
    assert runtime["protocolVersions"] == ["v2", "grpc-v2"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    secrets = {each["name"]: each["secret"]["secretName"] for each in runtime["volumes"] if "secret" in each}
    assert secrets == {"access": "who"}
    assert f"--access={mounted['access']}/access.yaml" in container["args"]
    assert {"--admin-port=9090", "--grpc-port=8081"} <= set(container["args"])
    allowed = found["NetworkPolicy", "v-server"]["spec"]["ingress"]
    assert {port["port"] for rule in allowed for port in rule["ports"]} == {8080, 8081, 9090}
    assert found["PodMonitor", "v-server"]["spec"]["podMetricsEndpoints"][0]["port"] == "admin"
    rayserve = yaml.safe_load(found["ConfigMap", "vitruvian-rayserve"]["data"]["settings.yaml"])
    assert rayserve["access"] == "who"


def test_a_challenger_is_tried_beside_the_version_that_serves() -> None:
    tried = {"bundle": "s3://models/poses/bundles/8", "share": 2.5, "shadow": 100, "stickyCookie": True}
    (container,) = made(server=SERVER | {"challenger": tried})["Deployment", "v-server"]["spec"]["template"]["spec"][
        "containers"
    ]
    told = {"--challenger=s3://models/poses/bundles/8", "--share=2.5", "--shadow=100", "--sticky-cookie"}
    assert told <= set(container["args"])
    (without,) = made(server=SERVER)["Deployment", "v-server"]["spec"]["template"]["spec"]["containers"]
    assert not {each.partition("=")[0] for each in without["args"]} & {"--challenger", "--share", "--shadow"}


def test_a_server_of_which_nothing_more_is_asked_has_one_port() -> None:
    found = made(server=SERVER | {"access": None, "tls": None, "grpc": None})
    (container,) = found["Deployment", "v-server"]["spec"]["template"]["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == ["http"]
    assert "--linger=10" in container["args"]
    assert ("Pod", "v-test") in found
