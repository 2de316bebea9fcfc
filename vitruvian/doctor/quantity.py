"""Kubernetes' quantities and whether pods fit on nodes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vitruvian.cluster.objects import Object, number
from vitruvian.cluster.settings import RaySettings, Resources

GPU: Final = "nvidia.com/gpu"


def size(quantity: object) -> str:
    """Return an amount of memory or disk as people write it."""
    gigabytes = number(quantity) / 1024**3
    return f"{gigabytes:.0f} GiB" if gigabytes >= 10 or gigabytes % 1 == 0 else f"{gigabytes:.1f} GiB"


def cpus(quantity: object) -> str:
    """Return an amount of CPU as people say it."""
    found = number(quantity).normalize()
    return f"{found:f} CPU{'' if found == 1 else 's'}"


@dataclass(frozen=True)
class Pod:
    """What a pod reserves, and where it may run."""

    what: str
    requests: Mapping[str, str]
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        gpus = f", {self.requests[GPU]} GPUs" if GPU in self.requests else ""
        return f"{self.what} ({cpus(self.requests['cpu'])}, {size(self.requests['memory'])}{gpus})"


def pods_of(settings: RaySettings, workers: bool, gpus: int = 0) -> list[Pod]:
    """Return the pods of a run: the one that leads, and one worker where there are any."""
    head = Pod("the head", _requests(settings.head, 0), settings.head_node_selector, settings.head_tolerations)
    worker = Pod("a worker", _requests(settings.worker, gpus), settings.node_selector, settings.tolerations)
    return [head, worker] if workers else [head]


def _requests(resources: Resources, gpus: int) -> dict[str, str]:
    return resources.requests() | ({GPU: str(gpus)} if gpus else {})


def may_run(pod: Pod, node: Object) -> bool:
    """Tell whether a pod's selector and tolerations let it run on a node."""
    labels, spec = node["metadata"].get("labels", {}), node.get("spec", {})
    if spec.get("unschedulable") or any(labels.get(key) != value for key, value in pod.node_selector.items()):
        return False
    taints = [taint for taint in spec.get("taints") or () if taint["effect"] in ("NoSchedule", "NoExecute")]
    return all(any(_tolerates(each, taint) for each in pod.tolerations) for taint in taints)


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        key = toleration.get("key")
        return not key or bool(key == taint["key"])
    same: bool = (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))
    return same


def fits(pod: Pod, node: Object) -> bool:
    """Tell whether an empty node is large enough for a pod, and takes it."""
    allocatable = node["status"]["allocatable"]
    return may_run(pod, node) and all(
        number(allocatable.get(name, 0)) >= number(wanted) for name, wanted in pod.requests.items()
    )


def gpus_of(nodes: list[Object]) -> int:
    """Return the number of GPUs that nodes offer to pods."""
    return int(sum(number(node["status"].get("allocatable", {}).get(GPU, 0)) for node in nodes))
