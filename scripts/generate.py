"""Write what follows from the code: pages of the docs, the schema of the chart's values, its dashboards and alerts."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vitruvian import cli, spec
from vitruvian.cluster import images, rayjob, servers
from vitruvian.cluster.objects import NAME, manifest
from vitruvian.cluster.settings import Ingress, RayServeSettings, RaySettings, TrainerSettings
from vitruvian.inference.grpc import messages
from vitruvian.migration.systems import SYSTEMS
from vitruvian.migration.table import System, Whole
from vitruvian.observability import alerts, metrics
from vitruvian.observability.dashboards import DASHBOARDS, rendered
from vitruvian.operator import crd

ROOT = Path(__file__).parents[1]
CHART_FOLDER = ROOT / "charts" / "vitruvian"
VALUES = CHART_FOLDER / "values.yaml"
GRPC_FOLDER = ROOT / "vitruvian" / "inference" / "grpc"
COMING_FROM = ROOT / "docs" / "coming-from.md"

SAMPLES = ROOT / "k8s" / "samples"
SAMPLE = SAMPLES / "classifier.yaml"
SAMPLE_HEAD = """\
# What `vitruvian {command}`
# makes with settings like the chart's; --dry-run prints yours.
"""
# What a job that isn't all stages does, as it is asked for behind `vitruvian submit`.
JOBS = {
    "train": ["train"],
    "evaluate": ["evaluate"],
    "tune": ["tune", "--trials", "20", "--concurrent", "4"],
    "study": ["study", "--vary", "model.freezeLayers=0,1,2"],
    "batch-predict": ["predict", "s3://data/new", "--out", "s3://models/answers"],
}
# Of a search.
SPACE = """\
  tuning:
    space: {training.learningRate: {logUniform: [1.0e-4, 1.0e-2]}}
"""

CRD_HEAD = "# Written by scripts/generate.py from vitruvian/spec.py.\n"
CRD_TEMPLATE = """\
{{- /* Written by scripts/generate.py from vitruvian/spec.py. */}}
{{- $crd := .Values.crd | default dict }}
{{- if and $crd.install (not (include "vitruvian.crdElsewhere" .)) }}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: NAME
  labels:
    {{- include "vitruvian.labels" . | nindent 4 }}
  {{- if $crd.keep }}
  annotations: {helm.sh/resource-policy: keep}
  {{- end }}
"""

CLASSIFIER = """\
# The Classifier

Every field of the file that declares a classifier, as `vitruvian spec explain` tells them; `vitruvian spec schema`
prints the JSON schema and `vitruvian spec validate FILE` checks a file. Unknown keys are refused with the nearest valid
name. What is not implemented yet is refused by name, never ignored.

| field | type | default | meaning |
|---|---|---|---|
"""

CHART = """\
# The chart's values

Every value of `charts/vitruvian`. A name that isn't here is refused.

**Names.** A namespace has one release: commands and KServe look for the service accounts `vitruvian-trainer` and
`vitruvian-server`, the ConfigMaps `vitruvian-trainer` and `vitruvian-rayserve`, the ServingRuntime and the
ClusterStorageContainer `vitruvian` and the Secrets of `s3` by these names. What else the chart makes (Deployment,
Service, Ingress, NetworkPolicies, roles, monitors, dashboards) begins with the release's name, or with
`fullnameOverride`.

**Several namespaces.** Each gets a release. The ClusterStorageContainer, and the ClusterServingRuntime of
`kserve.clusterWide`, are there once: the first release makes them, those after it find and use them. They go with the
release that made them; until the next `helm upgrade` of any other release makes its own, KServe makes no new pods of
servers: what `vitruvian deploy` applies names the ClusterStorageContainer `vitruvian`. Pods that run go on.
`vitruvian doctor` says whose the ClusterStorageContainer is, and when it is missing. What is rendered without a cluster
(`helm template`, Argo CD) always contains them: set `kserve.storageContainer` in one release only.

**The Classifier's definition.** The CustomResourceDefinition is one for the whole cluster, too: the first release makes
it (`crd.install`), those after it use it. With `crd.keep` it stays when its release is uninstalled, and so do all
Classifiers; a release of the same name in the same namespace takes it up again. Where that release is gone for good,
`kubectl apply --server-side --force-conflicts -f k8s/crd.yaml` brings it up to date. Without rights for the whole
cluster set `crd.install` to false, and have somebody apply that file who has them. Each release's operator looks after
the Classifiers of its own namespace.

**From a number of servers to autoscaling.** Where `server.autoscaling.enabled` becomes true in a release that runs,
Helm takes `replicas` out of the Deployment, and Kubernetes leaves one server until the HorizontalPodAutoscaler has
looked, 15 seconds or so: switch it on when one is enough for that long. Later upgrades leave the number alone.

**A Secret of your own.** Without `s3.create` the Secrets are yours to make, with the keys `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY`, and where they aren't Amazon's defaults `AWS_ENDPOINT_URL` and `AWS_DEFAULT_REGION`. KServe
hands only what it knows to those who fetch bundles: repeat the endpoint as `S3_ENDPOINT`, with http:// or https://.

**From one service account to two.** Until two accounts parted trainers from servers, all pods ran as `vitruvian`.
`helm upgrade` keeps that account where the release has it, so that what runs can make its next pods. Give the two new
accounts their rights first (on EKS: [eks.md](eks.md)), then upgrade, `vitruvian deploy` once more what is served, and
delete the old account when no pod has it: `kubectl -n studio delete serviceaccount vitruvian`.

| value | default | meaning |
|---|---|---|
"""

METRICS = """\
# Metrics

Everything that `/metrics` shows of Vitruvian's own; [monitoring.md](monitoring.md) says how to get at it. Counters end
in `_total`; a histogram has `_bucket`, `_sum` and `_count`.
"""

SETTINGS = """
## {path}

{text} `--settings FILE` lays a file over them: maps are merged, all else is replaced.

| setting | default | meaning |
|---|---|---|
"""
SETTINGS_OF: dict[str, tuple[type[RaySettings], str]] = {
    "trainer": (
        TrainerSettings,
        "How `vitruvian submit` makes a run's pods. The chart keeps them in the ConfigMap `vitruvian-trainer`;",
    ),
    "rayserve": (
        RayServeSettings,
        "How `vitruvian deploy` makes Ray Serve's pods. The chart keeps them in the ConfigMap `vitruvian-rayserve`;",
    ),
}

_REPOSITORY = {"type": "string", "pattern": f"^{images.REPOSITORY}$", "maxLength": images.LONGEST_REPOSITORY}
_IMAGES = ("server", "serverRay", "operator", "trainer")
# Maps and lists whose content is Kubernetes' own, or a user's: the API server checks them.
_OPEN = {
    **{f"images.{role}.repository": _REPOSITORY for role in _IMAGES},
    **{f"images.{role}.tag": {"type": "string", "pattern": f"^({images.TAG})?$"} for role in _IMAGES},
    **{f"images.{role}.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]} for role in _IMAGES},
    "fullnameOverride": {"type": "string", "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$"},
    "images.pullSecrets": {"type": "array", "items": {"type": "string", "pattern": f"^{NAME}$"}},
    "s3.secret": {"type": "string", "pattern": f"^{NAME}$"},
    "s3.serverSecret": {"type": "string", "pattern": f"^({NAME})?$"},
    "serviceAccounts.trainer.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "serviceAccounts.server.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "serviceAccounts.operator.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "operator.declarers": {"type": "array", "items": {"type": "object"}},
    "operator.resources": {"type": "object"},
    "operator.nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
    "operator.tolerations": {"type": "array", "items": {"type": "object"}},
    "trainer.submitters": {"type": "array", "items": {"type": "object"}},
    "deployers": {"type": "array", "items": {"type": "object"}},
    "server.resources": {"type": "object"},
    "server.nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
    "server.tolerations": {"type": "array", "items": {"type": "object"}},
    "server.affinity": {"type": "object"},
    "server.env": {
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    },
    "server.service.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "server.startupSeconds": {"type": "integer", "minimum": 1, "maximum": 86_400},
    "server.autoscaling.scaleDownSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
    "server.service.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "server.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "server.ingress.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "server.httpRoute.parentRefs": {"type": "array", "items": {"type": "object"}},
    "server.httpRoute.hostnames": {"type": "array", "items": {"type": "string"}},
    "server.replicas": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "server.autoscaling.maxReplicas": {"type": "integer", "minimum": 1, "maximum": 10_000},
    "server.autoscaling.cpuPercent": {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000},
    "server.autoscaling.queueLength": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1_000_000},
    "server.drainSeconds": {"type": "integer", "minimum": 1, "maximum": 120},
    "server.challenger.bundle": {"type": "string", "pattern": "^(s3://[^/]\\S*)?$"},
    "server.challenger.share": {"type": "number", "minimum": 0, "maximum": 100},
    "server.challenger.shadow": {"type": "number", "minimum": 0, "maximum": 100},
    "networkPolicy.serverFrom": {"type": "array", "items": {"type": "object"}},
    "networkPolicy.metricsFrom": {"type": "array", "items": {"type": "object"}},
    "networkPolicy.kuberayNamespace": {"type": "object", "additionalProperties": {"type": "string"}},
    "networkPolicy.kuberayPods": {"type": "object", "additionalProperties": {"type": "string"}},
    "networkPolicy.egressTo": {"type": "array", "items": {"type": "object"}},
    "networkPolicy.egressPorts": {
        "type": "array",
        # A rule without a port would mean every port.
        "minItems": 1,
        "items": {"type": "integer", "minimum": 1, "maximum": 65535},
    },
    "monitoring.labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "monitoring.dashboards.labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "monitoring.dashboards.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


class Value(NamedTuple):
    """One value of the chart with the comment above it."""

    path: str
    default: Any
    text: str


def classifier_page() -> str:
    """Return docs/classifier.md."""
    rows = []
    for line in spec.fields():
        later = f" *Not implemented yet: {line.planned}.*" if line.planned else ""
        kind, text = line.kind.replace("|", "\\|"), " ".join(line.text.split())
        rows.append(f"| `{line.path}` | {kind} | {line.default} | {text}{later} |")
    return CLASSIFIER + "\n".join(rows) + "\n"


def chart_page() -> str:
    """Return docs/chart.md."""
    rows = [f"| `{value.path}` | `{json.dumps(value.default)}` | {value.text} |" for value in documented_values()]
    parts = [CHART + "\n".join(rows) + "\n"]
    for key, (kind, text) in SETTINGS_OF.items():
        settings = [f"| `{each.path}` | {each.default} | {each.text} |" for each in _settings(kind)]
        parts.append(SETTINGS.format(path=f"{key}.settings", text=text) + "\n".join(settings) + "\n")
    return "".join(parts)


def metrics_page() -> str:
    """Return docs/metrics.md."""
    parts = []
    for title, listed in (
        ("Servers", metrics.SERVING),
        ("Champion and challenger", metrics.TRACKS),
        ("Servers' processes", metrics.PROCESS),
        ("Training", metrics.TRAINING),
    ):
        rows = [
            f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"
            for metric in listed
            for labels in [", ".join(f"`{label}`" for label in metric.labels)]
        ]
        parts.append("\n".join([f"\n## {title}\n", "| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]))
    return METRICS + "\n".join(parts) + "\n"


def coming_from_page() -> str:
    """Return docs/coming-from.md: what is between its marks follows from the tables of keys, the rest stays."""
    page = COMING_FROM.read_text()
    for system in SYSTEMS:
        begin, end = f"<!-- keys: {system.name} -->\n", "<!-- end -->"
        before, after = page.split(begin)
        page = before + begin + _keys(system) + end + after.partition(end)[2]
    return page


def _keys(system: System) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in (*system.keys, *system.wholes):
        name = entry.name if isinstance(entry, Whole) else entry.path
        field = entry.to.startswith(("spec.", "metadata.")) and " " not in entry.to
        rows.setdefault((f"`{entry.to}`" if field else entry.to or "nothing", entry.note), []).append(f"`{name}`")
    lines = [f"| {', '.join(names)} | {to} | {note} |" for (to, note), names in rows.items()]
    for habit in system.habits:
        value = yaml.safe_dump(habit.value).partition("\n")[0]
        lines.append(f"| always | `{habit.path}: {value}` | {habit.note} |")
    return "\n".join(["| key | here | note |", "|---|---|---|", *lines]) + "\n"


def scaling_page() -> str:
    """Return docs/scaling.md."""
    page: str = runpy.run_path(str(ROOT / "benchmarks" / "scaling.py"))["scaling_page"]()
    return page


def rules_file() -> str:
    """Return the alerts as a file of rules that Prometheus reads."""
    return "# Written by scripts/generate.py from vitruvian/observability/alerts.py.\n" + manifest([alerts.rules()])


def crd_file() -> str:
    """Return k8s/crd.yaml, for those without Helm."""
    return CRD_HEAD + manifest([crd.definition()])


def crd_template() -> str:
    """Return the chart's template of the same, which a release makes unless another one did."""
    made = manifest([{"spec": crd.definition()["spec"]}])
    assert "{{" not in made, "the chart would take it for a template"
    return CRD_TEMPLATE.replace("NAME", crd.NAME) + made + "{{- end }}\n"


def _settings(kind: type[BaseModel], of: BaseModel | None = None, above: str = "") -> Iterator[Value]:
    """Yield every field of settings, those of their parts after the part; `of` has the defaults that a part gets."""
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True) if of is None else getattr(of, name)
        path = f"{above}{field.alias}"
        told = "required" if default is PydanticUndefined else f"`{json.dumps(default, default=_plain)}`"
        yield Value(path, told, field.description or "")
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _settings(part, default, f"{path}.")


def _plain(value: Any) -> Any:
    return value.model_dump(by_alias=True, exclude_none=True)


def documented_values() -> Iterator[Value]:
    """Yield what values.yaml documents with `# --`, in order; two spaces are a level."""
    defaults = yaml.safe_load(VALUES.read_text())
    path: list[str] = []
    comment: list[str] = []
    for line in VALUES.read_text().splitlines():
        bare = line.strip()
        if bare.startswith("# --"):
            comment = [bare[4:].strip()]
        elif bare.startswith("#") and comment:
            comment.append(bare[1:].strip())
        elif found := re.match(r"( *)(\w+):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            if comment:
                default = defaults
                for key in path:
                    default = default[key]
                yield Value(".".join(path), default, " ".join(comment))
                comment = []


def values_schema() -> str:
    """Return the chart's values.schema.json: what isn't a value is refused."""
    schema = _schema("", yaml.safe_load(VALUES.read_text()))
    definitions = {}
    for key, (kind, _) in SETTINGS_OF.items():
        settings = kind.model_json_schema(by_alias=True)
        definitions |= settings.pop("$defs")
        _close(settings)
        schema["properties"][key]["properties"]["settings"] = settings
    # Helm hands the values of a parent chart down under this name.
    schema["properties"]["global"] = {"type": "object"}
    # From when there was one account for all: a template says what became of it, which a schema can't.
    schema["properties"]["serviceAccount"] = {"type": "object"}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the chart vitruvian"}
    return json.dumps({**head, **schema, "$defs": definitions}, indent=2) + "\n"


def _close(schema: Any) -> None:
    """Refuse names that don't have the form which pydantic states of them, here as there."""
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for each in inner:
        _close(each)
    if isinstance(schema, dict) and "patternProperties" in schema:
        schema["additionalProperties"] = False


def _schema(path: str, default: Any) -> dict[str, Any]:
    if path in _OPEN:
        return dict(_OPEN[path])
    if isinstance(default, dict):
        below = {key: _schema(f"{path}.{key}".lstrip("."), value) for key, value in default.items()}
        return {"type": "object", "additionalProperties": False, "properties": below}
    kind = _TYPES[type(default)]
    # No value has a space or a line break in it, which templates would make other YAML of.
    return {"type": kind, "pattern": r"^\S*$"} if kind == "string" else {"type": kind}


def rayjob_sample(words: Sequence[str] = ()) -> str:
    """Return k8s/samples/rayjob.yaml, or that of another command than `run`."""
    declaration = SAMPLE.read_text() + (SPACE if "tune" in words else "")
    classifier = spec.parse(declaration)
    job = cli.job(classifier, words) if words else None
    made = rayjob.build(classifier, declaration, "yoga-1", "studio", TrainerSettings(), job)
    asked = f"submit {shlex.join(words[:1])} -f classifier.yaml -n studio {shlex.join(words[1:])}".split()
    return SAMPLE_HEAD.format(command=" ".join(asked)) + manifest(made)


def server_sample(backend: str) -> str:
    """Return k8s/samples/inferenceservice.yaml or rayservice.yaml."""
    declared = yaml.safe_load(SAMPLE.read_text())
    declared["spec"]["serving"]["backend"] = backend
    classifier = spec.parse(yaml.safe_dump(declared))
    settings = RayServeSettings(ingress=Ingress(domain="models.example.com"))
    made = servers.serving_objects(classifier, "s3://models/yoga/bundles/VERSION", "VERSION", "studio", settings)
    return SAMPLE_HEAD.format(command="deploy -f classifier.yaml -n studio") + manifest(made)


def grpc_messages() -> str:
    """Return the descriptors of the protocol's messages as JSON."""
    from google.protobuf import descriptor_pb2, json_format
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "messages"
        command = ["protoc", f"-I{GRPC_FOLDER}", f"--descriptor_set_out={out}", *messages.PROTOS]
        if protoc.main(command):
            raise SystemExit("protoc failed")
        known = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    return json_format.MessageToJson(known, indent=1) + "\n"


PAGES = {
    GRPC_FOLDER / messages.DESCRIPTORS: grpc_messages,
    SAMPLES / "rayjob.yaml": rayjob_sample,
    **{SAMPLES / f"rayjob-{name}.yaml": partial(rayjob_sample, words) for name, words in JOBS.items()},
    SAMPLES / "inferenceservice.yaml": partial(server_sample, "kserve"),
    SAMPLES / "rayservice.yaml": partial(server_sample, "rayserve"),
    ROOT / "k8s" / "crd.yaml": crd_file,
    CHART_FOLDER / "templates" / "crd.yaml": crd_template,
    ROOT / "docs" / "classifier.md": classifier_page,
    ROOT / "docs" / "chart.md": chart_page,
    ROOT / "docs" / "metrics.md": metrics_page,
    COMING_FROM: coming_from_page,
    ROOT / "docs" / "scaling.md": scaling_page,
    CHART_FOLDER / "values.schema.json": values_schema,
    CHART_FOLDER / "alerts" / "vitruvian.yaml": rules_file,
    **{CHART_FOLDER / "dashboards" / f"{name}.json": partial(rendered, made) for name, made in DASHBOARDS.items()},
}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(make())
