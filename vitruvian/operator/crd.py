"""The CustomResourceDefinition of the Classifier. Pure: from the declaration's JSON schema to a structural one.

Rules between fields stay with the operator, which says in the condition Stalled what is wrong.
"""

from __future__ import annotations

from typing import Any, Final

from vitruvian import spec
from vitruvian.cluster.objects import Object
from vitruvian.operator.status import Status

GROUP: Final = "vitruvian.dev"
API: Final = f"{GROUP}/v1alpha1"
KIND: Final = (API, "Classifier")
NAME: Final = f"classifiers.{GROUP}"
_ANYTHING: Final[Object] = {"x-kubernetes-preserve-unknown-fields": True}
_AS_IS: Final = ("type", "enum", "pattern", "minimum", "maximum", "minItems", "maxItems", "required")
_COLUMNS: Final = (
    ("Phase", "string", ".status.phase", "How far it is"),
    ("Champion", "string", ".status.champion.version", "The version that is best"),
    ("Accuracy", "number", ".status.champion.accuracy", "Its accuracy on the test part"),
    ("Age", "date", ".metadata.creationTimestamp", ""),
)


def definition() -> Object:
    """Return the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "Classifier",
                "listKind": "ClassifierList",
                "plural": "classifiers",
                "singular": "classifier",
                "shortNames": ["clf"],
                "categories": ["all", "vitruvian"],
            },
            "versions": [
                {
                    "name": API.partition("/")[2],
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*each) for each in _COLUMNS],
                    "schema": {"openAPIV3Schema": schema()},
                }
            ],
        },
    }


def schema() -> Object:
    """Return the structural schema of a Classifier, its status included."""
    whole = structural(spec.schema())
    whole["properties"]["apiVersion"] = whole["properties"]["kind"] = {"type": "string"}
    # Of an object's metadata a schema may speak of nothing but the name.
    named = whole["properties"]["metadata"]["properties"]["name"]
    whole["properties"]["metadata"] = {"type": "object", "properties": {"name": _without(named, "description")}}
    whole["properties"]["status"] = _status()
    whole["required"] = ["spec"]
    return whole


def _status() -> Object:
    """Return the schema of the status: open, since the operator may be newer than the definition that a cluster has."""
    status = structural(Status.model_json_schema(by_alias=True))
    conditions = status["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    for part in (status, conditions["items"], status["properties"]["run"]):
        for each in part["properties"].values():
            each.pop("enum", None)
    return status | _ANYTHING


def structural(json_schema: Object, parts: Object | None = None) -> Object:
    """Return what Kubernetes takes of a JSON schema of pydantic's: no references, no defaults, null as `nullable`."""
    parts = json_schema.get("$defs", {}) if parts is None else parts
    if "$ref" in json_schema:
        return structural(parts[json_schema["$ref"].rpartition("/")[2]] | _without(json_schema, "$ref"), parts)
    told = {"description": " ".join(json_schema["description"].split())} if "description" in json_schema else {}
    if "anyOf" in json_schema:
        kinds = [each for each in json_schema["anyOf"] if each != {"type": "null"}]
        # A structural schema has one type: which of several it is, only the operator looks at.
        one = structural(kinds[0], parts) if len(kinds) == 1 else _ANYTHING
        if len(kinds) == len(json_schema["anyOf"]):
            return one | told
        # Kubernetes refuses null where there are listed values, even where it is one of them.
        return _without(one, "enum") | told | {"nullable": True}
    if "type" not in json_schema:
        return _ANYTHING | told
    made = {key: json_schema[key] for key in _AS_IS if key in json_schema} | told
    if "const" in json_schema:
        made["enum"] = [json_schema["const"]]
    for bound, key in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if key in json_schema:
            made |= {bound: json_schema[key], key: True}
    # What pydantic says of the length of a list that is read from something else, it says as of a text's.
    lengths = ("minItems", "maxItems") if made["type"] == "array" else ("minLength", "maxLength")
    made |= {
        to: json_schema[of] for to, of in zip(lengths, ("minLength", "maxLength"), strict=True) if of in json_schema
    }
    if made["type"] == "array":
        items = json_schema.get("prefixItems", [json_schema.get("items", {})])
        made["items"] = structural(items[0], parts)
    if "properties" in json_schema:
        made["properties"] = {key: structural(each, parts) for key, each in json_schema["properties"].items()}
    elif made["type"] == "object":
        inner = json_schema.get("additionalProperties")
        made |= {"additionalProperties": structural(inner, parts)} if isinstance(inner, dict) else _ANYTHING
    return made


def _column(name: str, kind: str, path: str, text: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path} | ({"description": text} if text else {})


def _without(schema: Object, key: str) -> Object:
    return {name: each for name, each in schema.items() if name != key}
