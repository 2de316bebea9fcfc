"""What an administrator says once about Ray's pods on a cluster, and a user may say otherwise for one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from vitruvian.cluster import images
from vitruvian.cluster.objects import NAME, Object, number
from vitruvian.errors import NotFound, SpecError
from vitruvian.spec import documents, read

if TYPE_CHECKING:
    from vitruvian.cluster.api import Cluster

_KEY = "settings.yaml"
_PORT = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
_LONGEST_PORT = 9
_LEAST_MEMORY = 32 * 2**20


def _as_text(value: object) -> object:
    """Return a number as the text that Kubernetes takes: nobody puts the 4 of `cpu: 4` in quotes."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _some(quantity: str) -> str:
    if number(quantity) < _LEAST_MEMORY:
        raise ValueError(f"no pod runs with {quantity} of memory: 1Gi is 1024Mi")
    return quantity


def _with_port(address: object) -> object:
    port = str(address).rpartition(":")[2]
    if port.isascii() and port.isdigit() and not 0 < int(port[:_LONGEST_PORT]) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return address


# Ten years are for ever, and fit into what Kubernetes keeps seconds in.
Seconds = Annotated[int, Field(strict=True, ge=0, le=10 * 365 * 86_400)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Cpus = Annotated[Quantity, BeforeValidator(_as_text)]
Memory = Annotated[Quantity, AfterValidator(_some)]
Image = Annotated[str, AfterValidator(images.check), Field(json_schema_extra={"pattern": f"^{images.IMAGE}$"})]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class Resources(_Part):
    """What one pod gets."""

    cpu: Cpus = "1"
    """CPUs that are reserved."""
    memory: Memory = "4Gi"
    """Memory that is reserved, and the limit."""
    cpu_limit: Cpus | None = None
    """The most CPUs; none: what the node has free."""
    ephemeral_storage: Quantity | None = None
    """Disk that is reserved for copies of data and checkpoints; none: not stated."""

    @model_validator(mode="after")
    def _within_the_limit(self) -> Self:
        if self.cpu_limit is not None and number(self.cpu_limit) < number(self.cpu):
            raise ValueError(f"cpuLimit {self.cpu_limit} is less than cpu {self.cpu}")
        return self

    def requests(self) -> dict[str, str]:
        """Return what a pod asks Kubernetes for; GPUs are not among it."""
        asked = {"cpu": self.cpu, "memory": self.memory}
        return asked | ({"ephemeral-storage": self.ephemeral_storage} if self.ephemeral_storage else {})


class WorkerResources(Resources):
    """What the pod of a run's worker gets."""

    memory: Memory = "6Gi"
    """Memory that is reserved, and the limit."""


class ServingResources(Resources):
    """What a pod of Ray Serve gets."""

    memory: Memory = "2Gi"
    """Memory that is reserved, and the limit."""


class RaySettings(_Part):
    """How the pods of a Ray cluster are made."""

    config_map: ClassVar[str]
    """Where the chart keeps them, under the key `settings.yaml`."""

    image: Image
    """The image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the node asks the registry for the image."""
    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with the registry's credentials."""
    service_account: Name | None
    """The pods' service account; none: the namespace's default."""
    secrets: tuple[Name, ...] = ("vitruvian-s3",)
    """Secrets whose keys become environment variables, AWS_ENDPOINT_URL and the like; an absent one is left out."""
    env: dict[Variable, str] = Field(default_factory=dict)
    """More environment variables."""
    head: Resources = Resources()
    """The pod that leads: it gets no work of the workers' kind."""
    worker: Resources
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
    scrape_annotations: Annotated[bool, Field(strict=True)] = True
    """Annotate pods with prometheus.io/scrape, for a Prometheus without its operator."""


class TrainerSettings(RaySettings):
    """How a run's pods are made; the chart keeps it in the ConfigMap `vitruvian-trainer`, key `settings.yaml`."""

    config_map: ClassVar = "vitruvian-trainer"
    image: Image = "vitruvian/trainer:0.1.0"
    """The trainer's image."""
    service_account: Name | None = "vitruvian-trainer"
    """The pods' service account; none: the namespace's default."""
    worker: WorkerResources = WorkerResources()
    """The pod of one worker."""
    queue: Name | None = None
    """Kueue's LocalQueue; the run begins suspended, and Kueue lets it start."""
    attempts: Annotated[int, Field(strict=True, ge=1, le=1000)] = 3
    """How often a run is begun, each time from the last checkpoint."""
    ttl_seconds: Seconds = 600
    """How long the Ray cluster of a finished run stays."""
    deadline_seconds: Annotated[Seconds, Field(ge=1)] | None = None
    """How long each attempt of a run may take; none: for ever."""


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

    redis_address: Annotated[str, Field(pattern=rf"^(rediss?://)?[^\s/,:]+:{_PORT}$"), BeforeValidator(_with_port)]
    """Redis: redis://HOST:PORT, or rediss:// with TLS; networkPolicy.egressPorts in the chart must have its port."""
    redis_secret: Name | None = None
    """A Secret whose key `password` is Redis' password; none: it wants none."""


class RayServeSettings(RaySettings):
    """How Ray Serve's pods are made; the chart keeps it in the ConfigMap `vitruvian-rayserve`, key `settings.yaml`."""

    config_map: ClassVar = "vitruvian-rayserve"
    image: Image = "vitruvian/server-ray:0.1.0"
    """The image: the server's, and Ray."""
    service_account: Name | None = "vitruvian-server"
    """The pods' service account; none: the namespace's default."""
    head: ServingResources = ServingResources()
    """The pod that leads: Serve's controller, no server."""
    worker: ServingResources = ServingResources()
    """The pod of one server."""
    access: Name | None = None
    """A Secret whose access.yaml, and the files that it names, say who may ask (docs/access.md); none: everybody."""
    ingress: Ingress | None = None
    """How servers are reached from outside; none: by their Service only."""
    gcs_fault_tolerance: GcsFaultTolerance | None = None
    """`{redisAddress, redisSecret}`: a Redis for the head's state, so that servers answer on while the head is lost."""


S = TypeVar("S", bound=RaySettings)


def parse(kind: type[S], text: str, where: str) -> S:
    """Read settings from YAML; raises `SpecError` naming what is wrong."""
    return _checked(kind, _read(text, where), where)


def _read(text: str, where: str) -> Object:
    found = documents(text, where) or [{}]
    if len(found) > 1 or not isinstance(found[0], dict):
        raise SpecError("is not one map of settings", where=where, hint="see docs/chart.md")
    return found[0]


def _checked(kind: type[S], given: Object, where: str) -> S:
    try:
        return kind.model_validate(given)
    except ValidationError as e:
        problem = e.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        what = problem["msg"].removeprefix("Value error, ")
        raise SpecError(f"{place}: {what}", where=where, hint="see docs/chart.md") from e


def administered(kind: type[S], cluster: Cluster) -> S:
    """Return what the namespace's administrator set; where the chart left nothing, what needs nothing of it."""
    try:
        found = cluster.get("v1", "ConfigMap", kind.config_map)
    except NotFound:
        return without_chart(kind)
    return kept(kind, found, cluster.namespace)


def without_chart(kind: type[S]) -> S:
    """Return the defaults for a namespace in which the chart made no service account."""
    return kind.model_validate({"serviceAccount": None})


def kept(kind: type[S], config_map: Object, namespace: str) -> S:
    """Return what a namespace's ConfigMap holds; raises `SpecError` naming what is wrong."""
    text = (config_map.get("data") or {}).get(_KEY, "")
    return parse(kind, text, f"ConfigMap {kind.config_map} in namespace {namespace}")


def overlaid(settings: S, given: Object, where: str) -> S:
    """Return settings of which some are given anew: maps are merged, all else is replaced; raises `SpecError`."""
    before = settings.model_dump(by_alias=True, exclude_unset=True)
    return _checked(type(settings), _merged(before, given), where)


def overlaid_by(settings: S, path: Path) -> S:
    """Return settings over which a file lays its own; raises `SpecError`."""
    return overlaid(settings, _read(read(path, "a YAML file of settings"), str(path)), str(path))


def _merged(before: Object, given: Object) -> Object:
    merged = dict(before)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
