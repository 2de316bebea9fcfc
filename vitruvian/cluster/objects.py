"""What all objects have in common that are applied to a cluster."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import yaml

from vitruvian.errors import SpecError
from vitruvian.spec import Classifier

Object = dict[str, Any]

NAME: Final = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
"""A regular expression of what Kubernetes takes for the name of an object."""
_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
# Of a host's part between two dots.
_LONGEST_LABEL: Final = 63
_LONGEST_HOST: Final = 253
# What YAML 1.1 and kubectl's reader don't both take for a text.
_AMBIGUOUS: Final = re.compile(r"[-+.\d].*|y|n|yes|no|on|off|true|false|null|~|", re.IGNORECASE | re.DOTALL)

CLASSIFIER: Final = "vitruvian.dev/classifier"
VERSION: Final = "vitruvian.dev/version"
JOB: Final = "vitruvian.dev/job"
"""The label of a RayJob that says which verb it is of."""
HOME: Final = "/home/vitruvian"

_FACTORS: Final = {
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    "m": Decimal("0.001"),
}

CONTAINER_SECURITY: Final[Object] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What the pod security level `restricted` asks of a container, and a root file system that can't be written."""
POD_SECURITY: Final[Object] = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(classifier: str, component: str) -> dict[str, str]:
    """Return the labels of everything that belongs to a classifier."""
    return {
        "app.kubernetes.io/name": "vitruvian",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "vitruvian",
        CLASSIFIER: classifier,
    }


def declared(made: Object, classifier: Classifier) -> Object:
    """Return an object with the labels and annotations of its declaration, too; ours come first."""
    metadata, asked = made["metadata"], classifier.metadata
    # What kubectl keeps for itself is of no other object.
    noted = {name: text for name, text in asked.annotations.items() if not name.startswith("kubectl.kubernetes.io/")}
    annotations = noted | metadata.get("annotations", {})
    marked = {**metadata, "labels": asked.labels | metadata["labels"]}
    return {**made, "metadata": {**marked, "annotations": annotations} if annotations else marked}


def servers_of(classifier: str) -> str:
    """Return the name of what goes with a classifier's servers: KServe makes, changes and deletes the obvious ones."""
    return f"{classifier}-servers"


def is_ours(found: Object, classifier: str) -> bool:
    """Tell whether an object of the cluster was made for a classifier by us."""
    marks = found["metadata"].get("labels") or {}
    return (marks.get("app.kubernetes.io/managed-by"), marks.get(CLASSIFIER)) == ("vitruvian", classifier)


def owned(made: Object, owner: Object) -> Object:
    """Return an object that goes when its owner does; the owner as the cluster keeps it, with its uid."""
    metadata = owner["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {**made, "metadata": {**made["metadata"], "ownerReferences": [reference]}}


def bundle_in_reach(bundle: str) -> str:
    """Return a bundle's address, s3://BUCKET/PREFIX/bundles/VERSION; raises `SpecError` where pods can't reach it."""
    if not bundle.startswith("s3://"):
        hint = "publish to s3://BUCKET/PREFIX: set spec.artifacts"
        raise SpecError("the cluster's pods can't reach this bundle", where=bundle, hint=hint)
    return bundle


def is_name(text: str) -> bool:
    """Tell whether Kubernetes takes a text for the name of an object."""
    return re.fullmatch(NAME, text) is not None


def is_namespace(text: str) -> bool:
    """Tell whether Kubernetes takes a text for the name of a namespace: one part of a host's name."""
    return re.fullmatch(_LABEL, text) is not None


def is_host(text: str) -> bool:
    """Tell whether a text can be a host's name."""
    return len(text) <= _LONGEST_HOST and all(is_namespace(part) for part in text.split("."))


def check_host(first: str) -> None:
    """Raise `SpecError` where a host can't begin with this part, which the classifier's name is in."""
    if len(first) > _LONGEST_LABEL:
        what = f"no host can begin with {first}: that is {len(first)} characters, more than {_LONGEST_LABEL}"
        raise SpecError(what, where="metadata.name", hint="shorten it")


def check_name(classifier: str, kind: str, longest: int) -> None:
    """Raise `SpecError` where a classifier's name can't be that of an object from which others get theirs."""
    if not classifier[0].isalpha():
        hint = "begin it with a letter"
    elif len(classifier) > longest:
        hint = f"{longest} characters at most, not {len(classifier)}"
    else:
        return
    raise SpecError(f"no {kind} can be called '{classifier}'", where="metadata.name", hint=hint)


def number(quantity: object) -> Decimal:
    """Return what a quantity such as 100m, 3Gi or 2 stands for; 0 for what is none."""
    text = str(quantity)
    unit = text.lstrip("+-.0123456789")
    if unit[:1] in ("e", "E") and unit[1:].lstrip("+-").isdigit():
        unit = ""
    try:
        return Decimal(text.removesuffix(unit)) * _FACTORS[unit]
    except (InvalidOperation, KeyError):
        return Decimal(0)


def manifest(objects: list[Object]) -> str:
    """Return objects as YAML for `kubectl apply`."""
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, width=120, explicit_start=len(objects) > 1)


class _Plain(yaml.SafeDumper):
    """Writes every object in full, and texts of several lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if _AMBIGUOUS.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Plain.add_representer(str, _text)
