"""The chart: from an empty namespace to a prediction, to other values and back, and away without a trace."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cluster.conftest import S3, Published, Release, make_namespace
from tests.cluster.kube import CHART, ROOT, get, ingress_address, knows, kubectl, run, soon

SAMPLES = sorted((ROOT / "k8s" / "samples").glob("*.yaml"))
PROFILES = ["values.yaml", "values-kind.yaml", "values-eks.yaml"]
EVERYTHING = (
    "server.enabled=true,server.bundle=s3://models/poses,server.replicas=2,server.autoscaling.enabled=true,"
    "server.autoscaling.queueLength=4,server.ingress.enabled=true,server.ingress.host=poses.example.com,"
    "server.httpRoute.enabled=true,server.httpRoute.parentRefs[0].name=gateway,monitoring.annotations=true,"
    "monitoring.dashboards.enabled=true,"
    "s3.create=true,s3.accessKeyId=key,s3.secretAccessKey=secret,s3.endpoint=http://s3.example.com:9000,"
    "s3.serverSecret=read-only,s3.serverAccessKeyId=key,s3.serverSecretAccessKey=secret"
)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_api_server_takes_every_profile(profile: str, namespace: str, tmp_path: Path) -> None:
    values = CHART / profile
    run("helm", "lint", "--strict", CHART, "-f", values)
    rendered = run("helm", "template", "v", CHART, "-n", namespace, "-f", values, "--set", EVERYTHING)
    kubectl("-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=rendered)


@pytest.mark.parametrize(
    "sample", [path for path in SAMPLES if path.name != "classifier.yaml"], ids=lambda path: path.name
)
def test_the_api_server_takes_every_sample(sample: Path, namespace: str) -> None:
    text = sample.read_text().replace("namespace: studio", f"namespace: {namespace}")
    kubectl("-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("server.replcas=2", "additional properties 'replcas' not allowed"),
        ("trainer.settings.hed.cpu=1", "additional properties 'hed' not allowed"),
        ("server.replicas=none", "server/replicas"),
        ("server.service.type=Loadbalancer", "server/service/type"),
        ("server.enabled=true", "server.bundle is needed"),
        ("images.server.tag=a #b", "images/server/tag"),
        ("s3.secret=", "s3/secret"),
        ("networkPolicy.egressPorts[0]=0", "networkPolicy/egressPorts"),
        ("server.env.a-b=1", "a-b"),
        ("server.service.port=99999", "server/service/port"),
    ],
)
def test_a_value_that_is_wrong_is_refused_by_name(value: str, named: str) -> None:
    assert named in run("helm", "template", "v", CHART, "--set", value, check=False)


def test_install_test_upgrade_rollback_and_uninstall_leave_nothing(release: Release, published: Published) -> None:
    namespace = release.namespace
    before = _everything(namespace)
    release.install(enabled=True, bundle=published.address)
    assert "Succeeded" in release.helm("test", "v")
    assert _version(namespace) == published.versions[1]

    release.install(enabled=True, bundle=f"{published.address}/bundles/{published.versions[0]}", replicas=2)
    assert "Succeeded" in release.helm("test", "v")
    assert _version(namespace) == published.versions[0]
    assert get(namespace, "poddisruptionbudget")["items"]

    release.helm("rollback", "v", "1", "--wait", "--timeout", "120s")
    assert "Succeeded" in release.helm("test", "v")
    assert _version(namespace) == published.versions[1]
    assert not get(namespace, "poddisruptionbudget")["items"]

    release.helm("uninstall", "v", "--wait")
    soon("only what was there before is left", lambda: _everything(namespace) == before)
    left = kubectl("get", "clusterstoragecontainer,clusterservingruntime,clusterrole,crd", "-o", "name")
    assert "vitruvian" not in left


def test_the_classifiers_definition_stays_with_every_classifier_where_it_is_kept(release: Release) -> None:
    namespace = release.namespace
    kept = ("--reuse-values", "--set", "operator.enabled=false,crd.keep=true")
    release.install(wait=False)
    release.helm("upgrade", "v", CHART, *kept)
    kubectl("-n", namespace, "apply", "-f", ROOT / "k8s" / "samples" / "classifier.yaml")
    release.helm("uninstall", "v", "--wait")
    assert "yoga" in kubectl("-n", namespace, "get", "classifiers")

    # The same release takes it up again, and away where that is wanted.
    release.install(wait=False)
    release.helm("uninstall", "v", "--wait")
    soon("it is gone", lambda: not kubectl(*DEFINITION))


def test_from_outside_a_server_answers_and_shows_no_metrics(release: Release, published: Published) -> None:
    host = f"{release.namespace}.example.com"
    release.install(enabled=True, bundle=published.address, ingress={"enabled": True, "host": host})
    address = soon("the ingress has an address", ingress_address)
    soon("the ingress controller has read the Ingress", lambda: knows(address, Host=host))
    codes = {path: _code(f"{address}{path}", Host=host) for path in ("/", "/v2/models/poses", "/metrics")}
    assert codes == {"/": 200, "/v2/models/poses": 200, "/metrics": 404}


def _code(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as e:
        return e.code


def test_a_second_release_uses_what_the_first_made_for_the_whole_cluster(release: Release, s3: S3) -> None:
    first, second = release.namespace, f"{release.namespace}-b"
    definition = "CustomResourceDefinition of Classifiers belongs to release v in namespace"
    fetcher = ("get", "clusterstoragecontainer", "vitruvian", "--ignore-not-found", "-o", "name")
    doctor = ("vitruvian", "doctor", "-n", second)
    make_namespace(second)
    other = Release(second, s3, release.folder)
    try:
        release.install(wait=False)
        told = other.install()
        assert f"ClusterStorageContainer `vitruvian`, which belongs to release v in namespace {first}" in told
        assert f"{definition} {first}" in told
        assert f"of release v in namespace {first}" in run(*doctor, check=False)
        # Neither an upgrade nor the end of a release that only uses it takes it away.
        release.install(wait=False)
        other.helm("uninstall", "v", "--wait")
        assert kubectl(*fetcher) and kubectl(*DEFINITION)
        other.install()

        release.helm("uninstall", "v", "--wait")
        assert not kubectl(*fetcher)
        soon("the definition is gone, too", lambda: not kubectl(*DEFINITION))
        assert "no ClusterStorageContainer vitruvian" in run(*doctor, check=False)
        assert definition not in other.install(wait=False)
        assert kubectl(*fetcher)
        # An operator whose definition went away begins anew when there is one again.
        kubectl("-n", second, "apply", "-f", "-", text=REFUSED)
        said = ("-n", second, "get", "clf", "refused", "-o", "jsonpath={.status.phase}")
        soon("the second release's operator looks after its Classifiers", lambda: kubectl(*said) == "Invalid")
    finally:
        run("helm", "-n", second, "uninstall", "v", "--ignore-not-found")
        kubectl("delete", "namespace", second, "--wait=false")


DEFINITION = ("get", "crd", "classifiers.vitruvian.dev", "--ignore-not-found", "-o", "name")
REFUSED = """
apiVersion: vitruvian.dev/v1alpha1
kind: Classifier
metadata: {name: refused}
spec: {data: {source: data/yoga}, model: {architecture: vit}}
"""
OLD_ACCOUNT = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: vitruvian, annotations: {role: everything}}
secrets: [{name: vitruvian-s3}]
"""


def test_an_upgrade_keeps_the_account_that_pods_run_as_until_somebody_deletes_it(release: Release) -> None:
    namespace = release.namespace
    old = release.folder / "chart"
    shutil.copytree(CHART, old)
    (old / "templates" / "serviceaccounts.yaml").write_text(OLD_ACCOUNT)
    helpers = old / "templates" / "_helpers.tpl"
    helpers.write_text(helpers.read_text() + '{{ define "vitruvian.accountPullSecrets" }}{{ end }}')
    release.helm("install", "v", old)

    for _ in range(2):
        release.install(wait=False)
        kept = get(namespace, "serviceaccount", "vitruvian")
        assert kept["metadata"]["annotations"]["role"] == "everything"
        assert {"name": "vitruvian-s3"} in kept["secrets"]
        for duty in ("trainer", "server"):
            get(namespace, "serviceaccount", f"vitruvian-{duty}")
    assert "delete serviceaccount vitruvian" in run("vitruvian", "doctor", "-n", namespace, check=False)
    kubectl("-n", namespace, "delete", "serviceaccount", "vitruvian")
    release.install(wait=False)
    assert not kubectl("-n", namespace, "get", "serviceaccount", "vitruvian", "--ignore-not-found")


def _everything(namespace: str) -> set[str]:
    kinds = (
        "deployment,replicaset,pod,service,configmap,secret,serviceaccount,role,rolebinding,networkpolicy,ingress,"
        "httproute,hpa,poddisruptionbudget,servingruntime,inferenceservice,rayjob,job"
    )
    return set(kubectl("-n", namespace, "get", kinds, "-o", "name").split())


def _version(namespace: str) -> str:
    """Return the version that a server's log says is ready."""
    pods = get(namespace, "pods", "-l", "app.kubernetes.io/component=server")["items"]
    newest = max(
        (pod for pod in pods if "deletionTimestamp" not in pod["metadata"]),
        key=lambda pod: str(pod["metadata"]["creationTimestamp"]),
    )
    told = kubectl("-n", namespace, "logs", newest["metadata"]["name"])
    return told.partition(" version ")[2].split()[0]
