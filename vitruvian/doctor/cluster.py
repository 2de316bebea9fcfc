"""What the cluster has of what training and serving need.

Each look is two functions: one asks the API server, one judges what it said and is pure.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from vitruvian.cluster.objects import Object
from vitruvian.cluster.serving import STORAGE_CONTAINER
from vitruvian.cluster.settings import RayServeSettings, RaySettings, TrainerSettings, kept, without_chart
from vitruvian.doctor.finding import (
    Check,
    Finding,
    Level,
    Version,
    at_once,
    error,
    note,
    ok,
    unseen,
    version_of,
    warning,
    written,
)
from vitruvian.doctor.quantity import Pod, cpus, fits, gpus_of, may_run, pods_of, size
from vitruvian.errors import NotAllowed, SpecError, VitruvianError
from vitruvian.spec import Classifier

if TYPE_CHECKING:
    from vitruvian.cluster.look import Look

S = TypeVar("S", bound=RaySettings)

CLUSTER: Final = "cluster"
TRAINING: Final = "training"
SERVING: Final = "serving"

OLDEST_KUBERNETES: Final = (1, 30)
OLDEST_KUBERAY: Final = (1, 5, 1)
# With it came storageContainerName, by which our InferenceServices say who fetches their bundles.
OLDEST_KSERVE: Final = (0, 20)

_CHART: Final = "helm install vitruvian charts/vitruvian -n {namespace} -f my-values.yaml"
_KUBERAY: Final = (
    "helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm "
    "-n ray-system --create-namespace"
)
_KSERVE: Final = "install it in Standard mode: https://kserve.github.io/website/docs/install/kserve-install"
_METRICS_SERVER: Final = (
    "kubectl apply -f https://github.com/kubernetes-sigs/metrics-server/releases/latest/download/components.yaml"
)
_ROLE_ANNOTATION: Final = "eks.amazonaws.com/role-arn"
_SERVER_ACCOUNT: Final = "vitruvian-server"
_OLD_ACCOUNT: Final = "vitruvian"
_OPERATOR: Final = "app.kubernetes.io/name=vitruvian,app.kubernetes.io/component=operator"
_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ENDPOINT: Final = "AWS_ENDPOINT_URL"
_A_BUNDLE: Final = "s3://models/yoga/bundles/0123456789ab"
_KSERVES_CONTROLLER: Final = "kserve-controller-manager"
# Where KServe looks for the endpoint, to hand it to what fetches bundles.
_KSERVES_ENDPOINT: Final = ("serving.kserve.io/s3-endpoint", "S3_ENDPOINT")
# The chart's values by which parts are left out, and where it says which of them are off.
_KSERVE_VALUE: Final = "kserve.enabled"
_FETCHER_VALUE: Final = "kserve.storageContainer"
_OFF: Final = "vitruvian.dev/off"

Right = tuple[str, str, str]
"""A verb, an API group and a resource."""

TRAIN: Final[tuple[Right, ...]] = (
    *((verb, "ray.io", "rayjobs") for verb in ("create", "get", "list", "delete")),
    *((verb, "", "configmaps") for verb in ("create", "get")),
    ("list", "", "pods"),
    ("get", "", "pods/log"),
)
"""What submit, status, logs and cancel do: the chart's Role for those who submit."""
_SETTINGS: Final[Right] = ("get", "", "configmaps")
_PODS: Final[Right] = ("list", "", "pods")


def _applies(group: str, resource: str) -> tuple[Right, ...]:
    return tuple((verb, group, resource) for verb in ("get", "create", "patch", "delete"))


DEPLOY: Final[Mapping[str, tuple[Right, ...]]] = {
    "kserve": (
        *_applies("serving.kserve.io", "inferenceservices"),
        *_applies("autoscaling", "horizontalpodautoscalers"),
        *_applies("policy", "poddisruptionbudgets"),
        ("list", "apps", "deployments"),
        _PODS,
        _SETTINGS,
    ),
    "rayserve": (
        *_applies("ray.io", "rayservices"),
        *_applies("networking.k8s.io", "ingresses"),
        *_applies("policy", "poddisruptionbudgets"),
        _PODS,
        _SETTINGS,
    ),
}
"""What deploy and undeploy do with each backend: together the chart's Role for those who deploy."""


def checks(classifier: Classifier | None, namespace: str | None, context: str | None) -> list[Check]:
    """Return the looks at the cluster; where there is none, what is the matter with it."""
    # A kubeconfig may name a command to log in with, and that may wait for somebody.
    (connected,) = at_once([lambda: _connect(namespace, context)])
    if connected is None:
        hint = "its command to log in may wait for you: try 'kubectl version'"
        return [_known(CLUSTER, error("kubeconfig", "no answer", hint))]
    look, findings = connected
    known = [_known(CLUSTER, finding) for finding in findings]
    return known if look is None else [*known, *_looks(look, classifier)]


def _known(section: str, finding: Finding) -> Check:
    return Check(section, finding.name, lambda: finding)


def _connect(namespace: str | None, context: str | None) -> tuple[Look | None, list[Finding]]:
    """Return the cluster, None where it can't be looked at, and what connecting to it showed."""
    from vitruvian.cluster.look import Look

    try:
        look = Look(namespace, context)
    except VitruvianError as e:
        return None, [error("kubeconfig", e.what, e.hint or "")]
    chosen = ok("kubeconfig", f"context {look.context}, namespace {look.namespace}")
    try:
        found = api_server(str(look.get("/version").get("gitVersion", "")), look.host)
        if found.level is Level.error:
            return None, [chosen, found]
        # Anybody may ask for the version; only a known user is told its rights.
        look.may("get", "", "pods")
    except VitruvianError as e:
        where = f" ({e.where})" if e.where else ""
        return None, [chosen, error("API server", f"{e.what}{where}", e.hint or "")]
    return look, [chosen, found]


def _looks(look: Look, classifier: Classifier | None) -> list[Check]:
    backend = classifier.spec.serving.backend if classifier else None
    rayserve = backend == "rayserve"
    settings, of_settings, off = _settings(look, TrainerSettings, "settings")
    of_servers, of_rayserve, _ = _settings(look, RayServeSettings, "Ray Serve") if rayserve else (None, None, None)
    return [
        Check(CLUSTER, "namespace", partial(_namespace, look)),
        Check(CLUSTER, "rights", partial(_rights, look, backend or "kserve")),
        Check(CLUSTER, "StorageClass", partial(_storage_class, look)),
        Check(CLUSTER, "operator", partial(_classifiers, look)),
        Check(TRAINING, "KubeRay", partial(_kuberay, look)),
        _known(TRAINING, of_settings),
        Check(TRAINING, "trainer account", partial(_trainer_account, look, settings)),
        Check(TRAINING, "S3 keys", partial(_s3_keys, look, settings)),
        Check(TRAINING, "room", partial(_room, look, classifier, settings)),
        Check(TRAINING, "GPUs", partial(_gpus, look, classifier)),
        *([Check(TRAINING, "Kueue", partial(_kueue, look, settings.queue))] if settings.queue else []),
        *([_known(SERVING, of_rayserve)] if of_rayserve else []),
        Check(SERVING, "KServe", partial(_kserve, look, backend, off)),
        Check(SERVING, "runtime", partial(_runtime, look, backend, off)),
        Check(SERVING, "server account", partial(_server_account, look, of_servers)),
        Check(SERVING, "server S3 keys", partial(_server_s3_keys, look, of_servers)),
        Check(SERVING, "bundle fetcher", partial(_storage_container, look, backend, off)),
        Check(SERVING, "CPU metrics", partial(_metrics_server, look)),
        Check(SERVING, "queue metric", partial(_queue_metric, look, classifier)),
        Check(SERVING, "way in", partial(_way_in, look)),
        Check(SERVING, "PodMonitor", partial(_pod_monitor, look)),
    ]


def api_server(version: str, host: str) -> Finding:
    """Judge the API server's version; empty where what answers has none."""
    if not version:
        return error("API server", f"what answers at {host} is no API server", "check the kubeconfig's current context")
    found = version_of(version)
    if found and found[:2] < OLDEST_KUBERNETES:
        what = f"Kubernetes {written(found)} is too old"
        return error("API server", what, f"upgrade the cluster to {written(OLDEST_KUBERNETES)} or newer")
    return ok("API server", f"Kubernetes {version.removeprefix('v')} at {host}")


def _settings(look: Look, kind: type[S], name: str) -> tuple[S, Finding, frozenset[str]]:
    """Return the settings of the namespace, what was found, and which of the chart's values are off.

    Where there are no settings to read they are the defaults.
    """
    defaults = without_chart(kind)
    off = frozenset[str]()
    try:
        found = look.named(look.here("v1", "configmaps", kind.config_map))
        if found is None:
            return defaults, no_settings(name, kind.config_map, look.namespace), off
        off = switched_off(found)
        read = kept(kind, found, look.namespace)
    except NotAllowed as e:
        return defaults, unseen(name, e.what), off
    except SpecError as e:
        return defaults, error(name, f"ConfigMap {kind.config_map}: {e.what}", "correct it in the chart's values"), off
    except VitruvianError as e:
        return defaults, warning(name, f"can't be told: {e.what}", e.hint or ""), off
    return read, ok(name, f"image {read.image}, {', '.join(map(str, pods_of(read, workers=True)))}"), off


def switched_off(config_map: Object) -> frozenset[str]:
    """Return which of the chart's values are off, as the chart's ConfigMap tells."""
    return frozenset(_annotation(config_map, _OFF).split())


def no_settings(name: str, config_map: str, namespace: str) -> Finding:
    """Judge a namespace in which the chart left nothing."""
    found = f"no ConfigMap {config_map} in namespace {namespace}: the chart isn't installed there"
    return error(name, found, "install it with your values:", _CHART.format(namespace=namespace))


def _namespace(look: Look) -> Finding:
    return namespace(look.named(f"/api/v1/namespaces/{look.namespace}"), look.namespace)


def namespace(found: Object | None, name: str) -> Finding:
    """Judge whether the namespace is there."""
    if found is None:
        return error("namespace", f"there is no namespace {name}", "create it:", f"kubectl create namespace {name}")
    if found.get("status", {}).get("phase") == "Terminating":
        return error("namespace", f"{name} is being deleted", "wait, or name another with -n")
    level = found["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
    return ok("namespace", f"{name}, pod security {level}" if level else name)


def _rights(look: Look, backend: str) -> Finding:
    asked = {"train": TRAIN, "deploy": DEPLOY[backend]}
    return rights({duty: [right for right in wanted if not look.may(*right)] for duty, wanted in asked.items()})


def rights(lacking: Mapping[str, list[Right]]) -> Finding:
    """Judge the rights of this user from what is lacking for each duty: who only trains needs no right to deploy."""
    commands = {"train": "submit, status, logs, cancel", "deploy": "deploy, undeploy"}
    may = [commands[duty] for duty, missing in lacking.items() if not missing]
    if len(may) == len(lacking):
        return ok("rights", f"may {', '.join(may)}")
    told = "; ".join(
        f"may not {commands[duty]}: lacks {_told(missing)}" for duty, missing in lacking.items() if missing
    )
    values = {"train": "trainer.submitters", "deploy": "deployers"}
    names = " and ".join(values[duty] for duty, missing in lacking.items() if missing)
    hint = f"ask the administrator: {names} in the chart's values"
    return (warning if may else error)("rights", f"{f'may {may[0]}; ' if may else ''}{told}", hint)


def _told(rights: list[Right]) -> str:
    """Return rights as people read them: the verbs of each resource together."""
    verbs: dict[str, list[str]] = {}
    for verb, group, resource in rights:
        verbs.setdefault(f"{resource}{f'.{group}' if group else ''}", []).append(verb)
    return "; ".join(f"{', '.join(each)} {resource}" for resource, each in verbs.items())


def _storage_class(look: Look) -> Finding:
    return storage_class(look.items("/apis/storage.k8s.io/v1/storageclasses"))


def storage_class(classes: list[Object]) -> Finding:
    """Judge the default StorageClass: what Vitruvian makes needs none, what people run beside it often does."""
    mark = "storageclass.kubernetes.io/is-default-class"
    names = [each["metadata"]["name"] for each in classes if _annotation(each, mark) == "true"]
    if not names:
        return note("StorageClass", "no default; Vitruvian itself needs none")
    return ok("StorageClass", f"{', '.join(names)} is the default")


def _classifiers(look: Look) -> Finding:
    served = "Classifier" in _kinds(look, "vitruvian.dev", "v1alpha1")
    path = f"/apis/apps/v1/namespaces/{look.namespace}/deployments"
    return classifiers(served, look.items(path, labelSelector=_OPERATOR) if served else [], look.namespace)


def classifiers(served: bool, operators: list[Object], namespace: str) -> Finding:
    """Judge what looks after Classifiers; submit and deploy need none of it."""
    if not served:
        hint = "set the chart's crd.install and operator.enabled to true for it"
        return note("operator", "'kubectl apply' takes no Classifier here; submit and deploy need none", hint)
    if not operators:
        found = f"nobody looks after the Classifiers of namespace {namespace}; submit and deploy need nobody"
        return note("operator", found, "set the chart's operator.enabled to true for it")
    ready = [each for each in operators if each.get("status", {}).get("availableReplicas")]
    if not ready:
        command = f"kubectl -n {namespace} describe deployment {operators[0]['metadata']['name']}"
        return warning("operator", "isn't ready; Classifiers wait for it", "see why:", command)
    return ok("operator", f"looks after the Classifiers of namespace {namespace}")


def _kuberay(look: Look) -> Finding:
    served = _kinds(look, "ray.io", "v1")
    return kuberay(served, _operator(look, "kuberay-operator", "ray.io/v1") if served else None)


def kuberay(served: Collection[str], operator: Object | None) -> Finding:
    """Judge KubeRay by the types of ray.io/v1 that the cluster serves and its operator's Deployment."""
    missing = [kind for kind in ("RayCluster", "RayJob", "RayService") if kind not in served]
    if missing:
        found = "not installed" if len(missing) == 3 else f"ray.io/v1 lacks {', '.join(missing)}"
        return error("KubeRay", found, f"install {written(OLDEST_KUBERAY)} or newer:", _KUBERAY)
    return _controller("KubeRay", "its operator", operator, OLDEST_KUBERAY, "ray.io/v1")


def _kserve(look: Look, backend: str | None, off: Collection[str]) -> Finding:
    served = _kinds(look, "serving.kserve.io", "v1beta1")
    operator = _operator(look, _KSERVES_CONTROLLER, "v1beta1") if served else None
    return kserve(served, operator, _mode(look, operator), backend, off)


def kserve(
    served: Collection[str], operator: Object | None, mode: str, backend: str | None, off: Collection[str] = ()
) -> Finding:
    """Judge KServe; where nobody wants it it isn't needed, and our InferenceServices overrule its defaults."""
    if "InferenceService" not in served:
        if backend == "rayserve":
            return note("KServe", "not installed; this classifier is served by Ray Serve")
        if backend is None and _KSERVE_VALUE in off:
            return note("KServe", f"not installed; {_told_off(_KSERVE_VALUE)}")
        found = "not installed" if not served else "serves no InferenceService of v1beta1"
        return error("KServe", found, f"{_KSERVE} ({written(OLDEST_KSERVE)} or newer)")
    told = f"v1beta1, {mode} mode by default" if mode else "v1beta1"
    return _controller("KServe", "its controller", operator, OLDEST_KSERVE, told)


def _controller(name: str, what: str, found: Object | None, oldest: Version, told: str) -> Finding:
    if found is None:
        return error(name, f"{told}, but {what} isn't there", f"install {name} anew, or see who removed {what}")
    where = found["metadata"]["namespace"]
    if not found.get("status", {}).get("availableReplicas"):
        command = f"kubectl -n {where} describe deployment {found['metadata']['name']}"
        return error(name, f"{told}, but {what} in namespace {where} isn't ready", "see why:", command)
    version = version_of_deployment(found)
    if version is None:
        return ok(name, f"{told}; {what} is ready in namespace {where}, its image tells no version")
    if version < oldest:
        return error(name, f"{written(version)} is too old", f"upgrade it to {written(oldest)} or newer")
    return ok(name, f"{written(version)} in namespace {where}, {told}")


def version_of_deployment(found: Object) -> Version | None:
    """Return the version that a Deployment's image, or else its labels, tell."""
    labels = found["metadata"].get("labels") or {}
    images = [each["image"] for each in found["spec"]["template"]["spec"]["containers"]]
    tags = [image.partition("@")[0].rpartition("/")[2].partition(":")[2] for image in images]
    chart = re.sub(r"^.*?-(?=v?\d)", "", labels.get("helm.sh/chart", ""))
    for text in (*tags, labels.get("app.kubernetes.io/version", ""), chart):
        version = version_of(text)
        if version:
            return version
    return None


def _kinds(look: Look, group: str, version: str) -> set[str]:
    found = look.named(f"/apis/{group}/{version}")
    return {each["kind"] for each in found["resources"]} if found else set()


def _operator(look: Look, name: str, served: str) -> Object | None:
    """Return the Deployment of a controller, whatever namespace and release it is in."""
    try:
        found = look.items("/apis/apps/v1/deployments")
    except NotAllowed as e:
        raise NotAllowed(f"{e.what}; {served} is served") from e
    return next((each for each in found if each["metadata"]["name"].endswith(name)), None)


def _mode(look: Look, operator: Object | None) -> str:
    """Return KServe's default deployment mode; empty where it can't be read."""
    if operator is None:
        return ""
    path = f"/api/v1/namespaces/{operator['metadata']['namespace']}/configmaps/inferenceservice-config"
    try:
        return str(json.loads(look.get(path)["data"]["deploy"])["defaultDeploymentMode"])
    except (VitruvianError, KeyError, TypeError, ValueError):
        return ""


def _s3_keys(look: Look, settings: RaySettings, name: str = "S3 keys") -> Finding:
    account = look.named(look.here("v1", "serviceaccounts", settings.service_account or "default"))
    secrets = _secrets(look, settings.secrets)
    return s3_keys(_named_keys(secrets), set(settings.env), _has_role(account), look.namespace, _endpoint_here(), name)


def _server_s3_keys(look: Look, settings: RayServeSettings | None) -> Finding:
    """Look at the keys of Ray Serve's servers or, where there are no settings, of those that KServe makes."""
    name = "server S3 keys"
    if settings is not None:
        return _s3_keys(look, settings, name)
    account = look.named(look.here("v1", "serviceaccounts", _SERVER_ACCOUNT))
    secrets = _secrets(look, [each["name"] for each in (account or {}).get("secrets") or ()])
    for secret, found in secrets.items():
        if found is not None and not kserve_finds_endpoint(found):
            return endpoint_unseen(name, secret)
    return s3_keys(_named_keys(secrets), set(), _has_role(account), look.namespace, _endpoint_here(), name)


def _secrets(look: Look, names: Iterable[str]) -> dict[str, Object | None]:
    return {name: look.named(look.here("v1", "secrets", name)) for name in names}


def _named_keys(secrets: Mapping[str, Object | None]) -> dict[str, set[str] | None]:
    return {name: None if found is None else set(found.get("data") or ()) for name, found in secrets.items()}


def _has_role(account: Object | None) -> bool:
    return account is not None and bool(_annotation(account, _ROLE_ANNOTATION))


def _endpoint_here() -> bool:
    return _ENDPOINT in os.environ


def kserve_finds_endpoint(secret: Object) -> bool:
    """Tell whether KServe hands a Secret's endpoint, if there is one, to what fetches bundles."""
    annotation, key = _KSERVES_ENDPOINT
    data = secret.get("data") or {}
    return _ENDPOINT not in data or key in data or bool(_annotation(secret, annotation))


def endpoint_unseen(name: str, secret: str) -> Finding:
    """Judge a Secret whose endpoint KServe doesn't find."""
    found = f"{secret} has {_ENDPOINT}, which KServe doesn't hand to what fetches bundles"
    return error(name, found, f"repeat it in the Secret as {_KSERVES_ENDPOINT[1]}, with http:// or https://")


def s3_keys(
    secrets: Mapping[str, Collection[str] | None],
    env: set[str],
    identity: bool,
    namespace: str,
    endpoint_here: bool,
    name: str = "S3 keys",
) -> Finding:
    """Judge whether pods get rights in S3 by the names of keys; their values are never looked at."""
    found = env.union(*(keys for keys in secrets.values() if keys))
    given = [key for key in _KEYS if key in found]
    if not given and identity:
        return ok(name, "none: pods get their rights by the role of their service account")
    if not given:
        names = ", ".join(f"{each}{'' if keys is None else ' (without keys)'}" for each, keys in secrets.items())
        lines = ", ".join((*_KEYS, _ENDPOINT))
        hint = (
            f"fine where pods have an identity, as on EKS; else set s3.create in the chart, or from a file of {lines}:"
        )
        first = next(iter(secrets), "vitruvian-s3")
        command = f"kubectl -n {namespace} create secret generic {first} --from-env-file=s3.env"
        return warning(name, f"no Secret {names}" if names else "no Secret is named", hint, command)
    lacking = [key for key in _KEYS if key not in found]
    if lacking:
        return error(name, f"{', '.join(secrets)}: {', '.join(lacking)} is missing", "add it to the Secret")
    told = f"{', '.join(each for each, keys in secrets.items() if keys) or 'settings'} has {', '.join(_KEYS)}"
    if _ENDPOINT in found:
        return ok(name, f"{told}, {_ENDPOINT}")
    if endpoint_here:
        hint = f"set s3.endpoint beside s3.create, or {_ENDPOINT} in the Secret"
        return warning(name, f"{told}; {_ENDPOINT} is set here, but not for pods", hint)
    return ok(name, f"{told}; no {_ENDPOINT}: Amazon's S3")


def _room(look: Look, classifier: Classifier | None, settings: TrainerSettings) -> Finding:
    training = classifier.spec.training if classifier else None
    workers = training is None or training.strategy != "none"
    pods = pods_of(settings, workers, training.gpus_per_worker if training else 0)
    return room(pods, look.items("/api/v1/nodes"))


def room(pods: list[Pod], nodes: list[Object]) -> Finding:
    """Judge whether each pod fits on some node that is empty; what else runs there isn't counted."""
    homeless = [pod for pod in pods if not any(fits(pod, node) for node in nodes)]
    if not homeless:
        return ok("room", f"{' and '.join(map(str, pods))} {'fits' if len(pods) == 1 else 'fit'} on a node")
    pod = homeless[0]
    allowed = [node for node in nodes if may_run(pod, node)]
    if not allowed:
        found = f"{pod} may run on none of {len(nodes)} nodes: selector, taints"
        hint = "check nodeSelector and tolerations in trainer.settings"
    else:
        sizes = sorted({_size(node) for node in allowed}, reverse=True)
        found = f"{pod} fits on no node: {'; '.join(sizes[:3])}"
        hint = "lower trainer.settings in the chart's values, or add larger nodes"
    return warning("room", found, f"{hint}; fine where an autoscaler adds them")


def _size(node: Object) -> str:
    allocatable = node["status"]["allocatable"]
    return f"{cpus(allocatable['cpu'])}, {size(allocatable['memory'])}"


def _gpus(look: Look, classifier: Classifier | None) -> Finding:
    training = classifier.spec.training if classifier else None
    wanted = training.gpus_per_worker * training.world_size if training else 0
    sets = look.items("/apis/apps/v1/daemonsets")
    plugins = [each["metadata"]["name"] for each in sets if "nvidia-device-plugin" in each["metadata"]["name"]]
    operator = look.named("/apis/nvidia.com") is not None
    return gpus(wanted, gpus_of(look.items("/api/v1/nodes")), "GPU operator" if operator else "".join(plugins[:1]))


def gpus(wanted: int, allocatable: int, plugin: str) -> Finding:
    """Judge the GPUs that nodes offer against what all workers want together; 0: none is wanted."""
    by = f" ({plugin})" if plugin else ""
    if allocatable >= wanted and allocatable:
        return ok("GPUs", f"{allocatable}{by}{f', {wanted} wanted' if wanted else ''}")
    if not wanted:
        return note("GPUs", f"none{by}; training is on CPUs")
    hint = (
        "add nodes with GPUs"
        if plugin
        else "add nodes with GPUs, and NVIDIA's GPU operator, which offers them to pods:"
    )
    command = (
        ""
        if plugin
        else "helm install gpu-operator gpu-operator --repo https://helm.ngc.nvidia.com/nvidia -n gpu-operator "
        "--create-namespace"
    )
    return error("GPUs", f"{wanted} wanted, nodes offer {allocatable}{by}", hint, command)


def _kueue(look: Look, queue: str) -> Finding:
    group = look.named("/apis/kueue.x-k8s.io")
    if group is None:
        return kueue(queue, False, False)
    version = group["preferredVersion"]["groupVersion"]
    return kueue(queue, True, look.named(look.here(version, "localqueues", queue)) is not None)


def kueue(queue: str, installed: bool, there: bool) -> Finding:
    """Judge the queue that the settings name: without it runs stay suspended."""
    if not installed:
        hint = "install it (https://kueue.sigs.k8s.io/docs/installation/), or take queue out of trainer.settings"
        return error("Kueue", f"not installed, but the settings name the queue {queue}", hint)
    if not there:
        return error("Kueue", f"there is no LocalQueue {queue} in the namespace", "create it, or name another")
    return ok("Kueue", f"LocalQueue {queue}")


def _runtime(look: Look, backend: str | None, off: Collection[str]) -> Finding:
    in_namespace = look.named(look.here("serving.kserve.io/v1alpha1", "servingruntimes", "vitruvian"))
    if in_namespace is not None:
        return runtime("ServingRuntime", backend)
    everywhere = look.named("/apis/serving.kserve.io/v1alpha1/clusterservingruntimes/vitruvian")
    return runtime("ClusterServingRuntime" if everywhere is not None else None, backend, off)


def _told_off(value: str) -> str:
    return f"off: {value} is false in the chart's values"


def _off_but_wanted(name: str, backend: str | None, value: str) -> Finding:
    """Judge what is switched off: only a classifier that KServe is to serve misses it."""
    if backend is None:
        return note(name, _told_off(value))
    return error(name, _told_off(value), "set it to true, or serving.backend to rayserve")


def runtime(kind: str | None, backend: str | None, off: Collection[str] = ()) -> Finding:
    """Judge whether KServe knows how a server's pod looks."""
    if kind is not None:
        return ok("runtime", f"{kind} vitruvian")
    if backend == "rayserve":
        return note("runtime", "no ServingRuntime vitruvian; Ray Serve needs none")
    if _KSERVE_VALUE in off:
        return _off_but_wanted("runtime", backend, _KSERVE_VALUE)
    hint = "comes with the chart, where kserve.enabled is true; install KServe before the chart"
    return error("runtime", "no ServingRuntime or ClusterServingRuntime vitruvian", hint)


def _trainer_account(look: Look, settings: TrainerSettings) -> Finding:
    account = settings.service_account or "default"
    return service_account("trainer account", account, look.named(look.here("v1", "serviceaccounts", account)))


def _server_account(look: Look, settings: RayServeSettings | None) -> Finding:
    account = _SERVER_ACCOUNT if settings is None else settings.service_account or "default"
    found = look.named(look.here("v1", "serviceaccounts", account))
    if found is not None and look.named(look.here("v1", "serviceaccounts", _OLD_ACCOUNT)) is not None:
        return old_account(account, look.namespace)
    return service_account("server account", account, found)


def service_account(name: str, account: str, found: Object | None) -> Finding:
    """Judge the service account of pods."""
    if found is None:
        return error(name, f"no ServiceAccount {account}", "comes with the chart")
    role = _annotation(found, _ROLE_ANNOTATION)
    return ok(name, f"{account}, role {role}" if role else account)


def old_account(account: str, namespace: str) -> Finding:
    """Judge a namespace with the account that trainers and servers shared once."""
    found = f"{account}, but pods from before it run as {_OLD_ACCOUNT}, with the rights of trainers"
    command = f"kubectl -n {namespace} delete serviceaccount {_OLD_ACCOUNT}"
    return warning("server account", found, "deploy once more what is served, and then:", command)


def _storage_container(look: Look, backend: str | None, off: Collection[str]) -> Finding:
    found = look.items("/apis/serving.kserve.io/v1alpha1/clusterstoragecontainers")
    return storage_container(found, _version_of_kserve(look), backend, look.namespace, off)


def _version_of_kserve(look: Look) -> Version | None:
    with contextlib.suppress(NotAllowed):
        operator = _operator(look, _KSERVES_CONTROLLER, "v1beta1")
        return version_of_deployment(operator) if operator else None
    return None


def storage_container(
    containers: list[Object],
    version: Version | None,
    backend: str | None,
    namespace: str,
    off: Collection[str] = (),
) -> Finding:
    """Judge who fetches bundles for KServe's pods; of several that could, an old KServe takes any."""
    named = {each["metadata"]["name"]: each for each in containers}
    ours = named.pop(STORAGE_CONTAINER, None)
    if ours is None:
        if backend == "rayserve":
            return note("bundle fetcher", "none for KServe; Ray Serve needs none")
        if _KSERVE_VALUE in off:
            return _off_but_wanted("bundle fetcher", backend, _KSERVE_VALUE)
        if _FETCHER_VALUE in off:
            found = f"{_told_off(_FETCHER_VALUE)}, and no other release makes it: KServe makes no server's pod"
            return error("bundle fetcher", found, "set it to true in one release")
        hint = "any release of the chart with kserve.storageContainer makes it, at its next helm upgrade"
        return error(
            "bundle fetcher", f"no ClusterStorageContainer {STORAGE_CONTAINER}: KServe makes no server's pod", hint
        )
    others = [name for name, each in named.items() if takes_bundles(each)]
    if others and version is not None and version < OLDEST_KSERVE:
        found = f"{', '.join(others)} takes s3://, too, and KServe {written(version)} may choose it"
        hint = f"upgrade KServe to {written(OLDEST_KSERVE)} or newer, or delete the other ClusterStorageContainer"
        return warning("bundle fetcher", found, hint)
    release, where = (_annotation(ours, f"meta.helm.sh/release-{part}") for part in ("name", "namespace"))
    whose = f", of release {release} in namespace {where}" if release and where != namespace else ""
    return ok("bundle fetcher", f"ClusterStorageContainer {STORAGE_CONTAINER}{whose}: every file is checked")


def takes_bundles(container: Object) -> bool:
    """Tell whether KServe finds a ClusterStorageContainer fit for bundles in S3, if nobody names another."""
    spec = container.get("spec") or {}
    if container.get("disabled") or spec.get("workloadType", "initContainer") != "initContainer":
        return False
    return any(_matches(each) for each in spec.get("supportedUriFormats") or ())


def _matches(uris: Mapping[str, str]) -> bool:
    if prefix := uris.get("prefix"):
        return _A_BUNDLE.startswith(prefix)
    # An expression that only Go understands is taken for none of ours.
    with contextlib.suppress(re.error):
        return bool(uris.get("regex")) and re.search(uris["regex"], _A_BUNDLE) is not None
    return False


def _metrics_server(look: Look) -> Finding:
    if look.named("/apis/metrics.k8s.io") is None:
        return metrics_server(False, False)
    try:
        look.get("/apis/metrics.k8s.io/v1beta1")
    except VitruvianError:
        return metrics_server(True, False)
    return metrics_server(True, True)


def metrics_server(installed: bool, answers: bool) -> Finding:
    """Judge metrics-server, without which nothing is scaled by CPU."""
    if not installed:
        found = "metrics-server isn't installed: servers aren't scaled by CPU"
        return warning("CPU metrics", found, "install it:", _METRICS_SERVER)
    if not answers:
        see = "kubectl describe apiservice v1beta1.metrics.k8s.io"
        return warning("CPU metrics", "metrics-server doesn't answer: servers aren't scaled by CPU", "see why:", see)
    return ok("CPU metrics", "metrics.k8s.io answers")


def _queue_metric(look: Look, classifier: Classifier | None) -> Finding:
    serving = classifier.spec.serving if classifier else None
    wanted = serving is not None and serving.backend == "kserve" and serving.replicas.queue_length is not None
    return queue_metric(look.named("/apis/custom.metrics.k8s.io") is not None, wanted)


def queue_metric(there: bool, wanted: bool) -> Finding:
    """Judge whether KServe's servers can be scaled by waiting predictions."""
    if there:
        return ok("queue metric", "custom.metrics.k8s.io is there, for replicas.queueLength")
    hint = "install prometheus-adapter: https://github.com/kubernetes-sigs/prometheus-adapter"
    if wanted:
        return error("queue metric", "no custom.metrics.k8s.io, but replicas.queueLength is set", hint)
    return note("queue metric", "no custom.metrics.k8s.io; only replicas.queueLength needs it")


def _way_in(look: Look) -> Finding:
    ingresses = [each["metadata"]["name"] for each in look.items("/apis/networking.k8s.io/v1/ingressclasses")]
    gateways = [each["metadata"]["name"] for each in look.items("/apis/gateway.networking.k8s.io/v1/gatewayclasses")]
    return way_in(ingresses, gateways)


def way_in(ingresses: list[str], gateways: list[str]) -> Finding:
    """Judge how servers are reached from outside the cluster."""
    found = [
        f"{what} {', '.join(names)}" for what, names in (("Ingress", ingresses), ("Gateway API", gateways)) if names
    ]
    if found:
        return ok("way in", "; ".join(found))
    return note("way in", "no ingress class, no Gateway API: servers are reached from inside the cluster only")


def _pod_monitor(look: Look) -> Finding:
    return pod_monitor("PodMonitor" in _kinds(look, "monitoring.coreos.com", "v1"))


def pod_monitor(there: bool) -> Finding:
    """Judge whether the chart's monitoring.podMonitor can be used."""
    if there:
        return ok("PodMonitor", "Prometheus operator, for monitoring.podMonitor")
    return note("PodMonitor", "no Prometheus operator; pods are annotated for a Prometheus without it")


def _annotation(found: Object, name: str) -> str:
    return str((found["metadata"].get("annotations") or {}).get(name, ""))
