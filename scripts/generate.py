"""Write what follows from the code: pages of the docs, and the schema of the chart's values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vitruvian import spec
from vitruvian.cluster.settings import TrainerSettings

ROOT = Path(__file__).parents[1]
VALUES = ROOT / "charts" / "vitruvian" / "values.yaml"

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

| value | default | meaning |
|---|---|---|
"""

SETTINGS = """
## trainer.settings

How `vitruvian submit` makes a run's pods. The chart keeps them in the ConfigMap `vitruvian-trainer`; `--settings FILE`
takes them from a file instead.

| setting | default | meaning |
|---|---|---|
"""

# Maps and lists whose content is Kubernetes' own, or a user's: the API server checks them.
_OPEN = {
    "images.pullSecrets": {"type": "array", "items": {"type": "string"}},
    "serviceAccount.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "trainer.submitters": {"type": "array", "items": {"type": "object"}},
    "server.resources": {"type": "object"},
    "server.nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
    "server.tolerations": {"type": "array", "items": {"type": "object"}},
    "server.affinity": {"type": "object"},
    "server.env": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
    "server.service.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "server.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "server.ingress.annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    "server.httpRoute.parentRefs": {"type": "array", "items": {"type": "object"}},
    "server.httpRoute.hostnames": {"type": "array", "items": {"type": "string"}},
    "server.replicas": {"type": "integer", "minimum": 1},
    "server.autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "server.autoscaling.cpuPercent": {"type": ["integer", "null"], "minimum": 1},
    "server.autoscaling.queueLength": {"type": ["number", "null"], "exclusiveMinimum": 0},
    "server.drainSeconds": {"type": "integer", "minimum": 1},
    "networkPolicy.serverFrom": {"type": "array", "items": {"type": "object"}},
    "networkPolicy.kuberayNamespace": {"type": "object", "additionalProperties": {"type": "string"}},
    "networkPolicy.kuberayPods": {"type": "object", "additionalProperties": {"type": "string"}},
    "networkPolicy.egressTo": {"type": "array", "items": {"type": "object"}},
    "networkPolicy.egressPorts": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 65535}},
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
        kind = line.kind.replace("|", "\\|")
        rows.append(f"| `{line.path}` | {kind} | {line.default} | {line.text}{later} |")
    return CLASSIFIER + "\n".join(rows) + "\n"


def chart_page() -> str:
    """Return docs/chart.md."""
    rows = [f"| `{value.path}` | `{json.dumps(value.default)}` | {value.text} |" for value in documented_values()]
    settings = [
        f"| `{field.alias}` | `{json.dumps(default, default=_plain)}` | {field.description} |"
        for field in TrainerSettings.model_fields.values()
        for default in [field.get_default(call_default_factory=True)]
    ]
    return CHART + "\n".join(rows) + "\n" + SETTINGS + "\n".join(settings) + "\n"


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
    settings = TrainerSettings.model_json_schema(by_alias=True)
    definitions = settings.pop("$defs")
    schema["properties"]["trainer"]["properties"]["settings"] = settings
    # Helm hands the values of a parent chart down under this name.
    schema["properties"]["global"] = {"type": "object"}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the chart vitruvian"}
    return json.dumps({**head, **schema, "$defs": definitions}, indent=2) + "\n"


def _schema(path: str, default: Any) -> dict[str, Any]:
    if path in _OPEN:
        return dict(_OPEN[path])
    if isinstance(default, dict):
        below = {key: _schema(f"{path}.{key}".lstrip("."), value) for key, value in default.items()}
        return {"type": "object", "additionalProperties": False, "properties": below}
    return {"type": _TYPES[type(default)]}


PAGES = {
    ROOT / "docs" / "classifier.md": classifier_page,
    ROOT / "docs" / "chart.md": chart_page,
    ROOT / "charts" / "vitruvian" / "values.schema.json": values_schema,
}

if __name__ == "__main__":
    for path, make in PAGES.items():
        path.write_text(make())
