"""What an administrator says once about Ray's pods on a cluster, and a user may say otherwise for one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from vitruvian.cluster.objects import NAME, Object
from vitruvian.errors import NotFound, SpecError

if TYPE_CHECKING:
    from vitruvian.cluster.api import Cluster

_KEY = "settings.yaml"
# Ten years are for ever, and fit into what Kubernetes keeps seconds in.
Seconds = Annotated[int, Field(ge=0, le=10 * 365 * 86_400)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Word = Annotated[str, Field(pattern=r"^\S+$")]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class Resources(_Part):
    """What one pod gets."""

    cpu: Quantity = "1"
    """CPUs that are reserved."""
    memory: Quantity = "4Gi"
    """Memory that is reserved, and the limit."""
    cpu_limit: Quantity | None = None
    """The most CPUs; none: what the node has free."""
    ephemeral_storage: Quantity | None = None
    """Disk that is reserved for copies of data and checkpoints; none: not stated."""

    def requests(self) -> dict[str, str]:
        """Return what a pod asks Kubernetes for; GPUs are not among it."""
        asked = {"cpu": self.cpu, "memory": self.memory}
        return asked | ({"ephemeral-storage": self.ephemeral_storage} if self.ephemeral_storage else {})


class RaySettings(_Part):
    """How the pods of a Ray cluster are made."""

    config_map: ClassVar[str]
    """Where the chart keeps them, under the key `settings.yaml`."""

    image: Word
    """The image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the node asks the registry for the image."""
    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with the registry's credentials."""
    service_account: Name | None = None
    """The pods' service account; the chart sets `vitruvian-trainer` for runs, `vitruvian-server` for Ray Serve."""
    secrets: tuple[Name, ...] = ("vitruvian-s3",)
    """Secrets whose keys become environment variables, AWS_ENDPOINT_URL and the like; an absent one is left out."""
    env: dict[Variable, str] = Field(default_factory=dict)
    """More environment variables."""
    head: Resources = Resources(memory="4Gi")
    """The pod that leads: it gets no work of the workers' kind."""
    worker: Resources = Resources(memory="6Gi")
    """The pod of one worker."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that workers run on."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints that workers tolerate: those of GPU or spot nodes."""
    head_node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that the leading pod, and what starts a run, is on; best not spot nodes."""
    head_tolerations: tuple[dict[str, Any], ...] = ()
    """Taints that the leading pod, and what starts a run, tolerates."""
    scratch_limit: Quantity | None = None
    """The most that a pod may write to /tmp, and to its home, before Kubernetes evicts it; none: what the node has."""
    priority_class: Name | None = None
    """The pods' priority class."""
    scrape_annotations: bool = True
    """Annotate pods with prometheus.io/scrape, for a Prometheus without its operator."""


class TrainerSettings(RaySettings):
    """How a run's pods are made; the chart keeps it in the ConfigMap `vitruvian-trainer`, key `settings.yaml`."""

    config_map: ClassVar = "vitruvian-trainer"
    image: Word = "vitruvian/trainer:0.1.0"
    """The trainer's image."""
    queue: Name | None = None
    """Kueue's LocalQueue; the run begins suspended, and Kueue lets it start."""
    attempts: Annotated[int, Field(ge=1, le=1000)] = 3
    """How often a run is begun, each time from the last checkpoint."""
    ttl_seconds: Seconds = 600
    """How long the Ray cluster of a finished run stays."""
    deadline_seconds: Annotated[Seconds, Field(ge=1)] | None = None
    """How long all attempts of a run together may take; none: for ever."""


class Ingress(_Part):
    """How a server is reached from outside the cluster."""

    domain: Name
    """Hosts are NAME-NAMESPACE.DOMAIN."""
    class_name: Name | None = None
    """The ingress class; none: the cluster's default."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations: for the ALB health checks and the like."""


class GcsFaultTolerance(_Part):
    """Where Ray keeps its head's state, so that servers answer while the head is lost and a new one takes over."""

    redis_address: Annotated[str, Field(pattern=r"^(rediss?://)?[^\s/,:]+:[0-9]+$")]
    """Redis: redis://HOST:PORT, or rediss:// with TLS; networkPolicy.egressPorts in the chart must have its port."""
    redis_secret: Name | None = None
    """A Secret whose key `password` is Redis' password; none: it wants none."""


class RayServeSettings(RaySettings):
    """How Ray Serve's pods are made; the chart keeps it in the ConfigMap `vitruvian-rayserve`, key `settings.yaml`."""

    config_map: ClassVar = "vitruvian-rayserve"
    image: Word = "vitruvian/server-ray:0.1.0"
    """The image: the server's, and Ray."""
    head: Resources = Resources(memory="2Gi")
    """The pod that leads: Serve's controller, no server."""
    worker: Resources = Resources(memory="2Gi")
    """The pod of one server."""
    ingress: Ingress | None = None
    """How servers are reached from outside; none: by their Service only."""
    gcs_fault_tolerance: GcsFaultTolerance | None = None
    """`{redisAddress, redisSecret}`: a Redis for the head's state, so that servers answer on while the head is lost."""


S = TypeVar("S", bound=RaySettings)


def parse(kind: type[S], text: str, where: str) -> S:
    """Read settings from YAML; raises `SpecError` naming what is wrong."""
    try:
        return kind.model_validate(yaml.safe_load(text) or {})
    except ValidationError as e:
        problem = e.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise SpecError(f"{place}: {problem['msg']}", where=where, hint="see docs/chart.md") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise SpecError(f"is not valid YAML ({' '.join(str(e).split())})", where=where, hint="mend it") from e


def administered(kind: type[S], cluster: Cluster) -> S:
    """Return what the namespace's administrator set; the defaults where nobody did."""
    try:
        found = cluster.get("v1", "ConfigMap", kind.config_map)
    except NotFound:
        found = {}
    return kept(kind, found, cluster.namespace)


def kept(kind: type[S], config_map: Object, namespace: str) -> S:
    """Return what a namespace's ConfigMap holds; raises `SpecError` naming what is wrong."""
    text = (config_map.get("data") or {}).get(_KEY, "")
    return parse(kind, text, f"ConfigMap {kind.config_map} in namespace {namespace}")


def load(kind: type[S], path: Path) -> S:
    """Read settings from a file; raises `SpecError`."""
    try:
        return parse(kind, path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"can't be read ({e})", where=path, hint="give a YAML file") from e
