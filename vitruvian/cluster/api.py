"""The few calls to the API server that runs and servers need, with its refusals explained."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from kubernetes import client, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from urllib3.exceptions import HTTPError, SSLError

from vitruvian.cluster.kubeconfig import choose, untrusted
from vitruvian.cluster.objects import Object, is_name
from vitruvian.errors import MISUNDERSTOOD, Conflict, NotAllowed, NotFound, VitruvianError

# What it would tell of each try again, the error tells at the end.
logging.getLogger("urllib3").setLevel(logging.ERROR)
MANAGER: Final = "vitruvian"
_SECONDS: Final = (5, 10)
"""To connect, and between two parts of an answer; each request is tried twice."""
_SECONDS_OF_SILENCE: Final = 24 * 3600
"""So long a run may write nothing."""
_COMES_WITH: Final = {
    "ray.io": "KubeRay",
    "serving.kserve.io": "KServe",
    "vitruvian.dev": "the chart, or k8s/crd.yaml",
}
_LONGEST_MESSAGE: Final = 500
_CONTEXT: Final = "check the kubeconfig's current context"


class UnknownKind(VitruvianError):
    """A kind of object that the cluster doesn't have."""


class Cluster:
    """One namespace of the cluster that the kubeconfig, or a pod's service account, names.

    Raises `VitruvianError` where there is neither, or where the API server can't be reached or refuses.
    """

    def __init__(self, namespace: str | None = None, context: str | None = None) -> None:
        self.namespace = choose(namespace, context).namespace
        self._core = client.CoreV1Api()
        self._host: str = self._core.api_client.configuration.host
        configuration = client.Configuration.get_default_copy()
        configuration.retries = 1
        with self._explained("the API server"):
            # The client's own place for what it discovered is shared by all users of a machine, and outlives clusters.
            self._scratch = tempfile.TemporaryDirectory(prefix="vitruvian-cluster-")
            discovered = f"{self._scratch.name}/resources.json"
            self._client = dynamic.DynamicClient(_Impatient(configuration), cache_file=discovered)

    def create(self, made: Object) -> Object:
        """Create an object and return it as the cluster keeps it; raises `Conflict` where it exists."""
        with self._explained(f"{made['kind']} {made['metadata']['name']}"), self._somewhere():
            done = self._to(made["apiVersion"], made["kind"]).create(body=made, namespace=self.namespace)
            return _checked(done.to_dict())

    def apply(self, made: Object) -> Object:
        """Create an object or change what of it is ours, by server-side apply, and return it."""
        with self._explained(f"{made['kind']} {made['metadata']['name']}"), self._somewhere():
            kind = self._to(made["apiVersion"], made["kind"])
            done = kind.server_side_apply(
                body=made, namespace=self.namespace, field_manager=MANAGER, force_conflicts=True
            )
            return _checked(done.to_dict())

    def apply_status(self, made: Object) -> None:
        """Change what of an object's status is ours, by server-side apply; the rest of the object stays."""
        with self._explained(f"the status of {made['kind']} {made['metadata']['name']}"):
            self._to(made["apiVersion"], made["kind"]).status.server_side_apply(
                body=made, namespace=self.namespace, field_manager=MANAGER, force_conflicts=True
            )

    def get(self, api_version: str, kind: str, name: str) -> Object:
        """Return an object; raises `NotFound`."""
        if not is_name(name):
            # An empty name, or a dot, would ask for something else.
            raise NotFound("can't be a name", where=f"{kind} '{name[:70]}'", hint="'vitruvian status' lists what is")
        with self._explained(f"{kind} {name}"):
            return _checked(self._to(api_version, kind).get(name=name, namespace=self.namespace).to_dict())

    def find(self, api_version: str, kind: str, name: str) -> Object | None:
        """Return an object; None where there is none, or the cluster doesn't even have the kind."""
        with contextlib.suppress(NotFound, UnknownKind):
            return self.get(api_version, kind, name)
        return None

    def list(self, api_version: str, kind: str, selector: str) -> list[Object]:
        """Return the objects with these labels, the oldest first."""
        with self._explained(f"{kind}s"):
            found = self._to(api_version, kind).get(namespace=self.namespace, label_selector=selector).to_dict()
            return sorted(map(_checked, found["items"]), key=lambda item: item["metadata"]["creationTimestamp"])

    def delete(self, api_version: str, kind: str, name: str) -> None:
        """Delete an object and, before it is gone, all that it owns; raises `NotFound`."""
        with self._explained(f"{kind} {name}"):
            options = {"propagationPolicy": "Foreground"}
            self._to(api_version, kind).delete(name=name, namespace=self.namespace, body=options)

    def log(self, pod: str, container: str) -> Iterator[str]:
        """Yield the lines of a container's log until it ends, or until the connection breaks."""
        with self._explained(f"the log of pod {pod}"):
            yield from watch.Watch().stream(
                self._core.read_namespaced_pod_log,
                name=pod,
                namespace=self.namespace,
                container=container,
                _request_timeout=(_SECONDS[0], _SECONDS_OF_SILENCE),
            )

    def _to(self, api_version: str, kind: str) -> Any:
        try:
            return self._client.resources.get(api_version=api_version, kind=kind)
        except ResourceNotFoundError as e:
            owner = _COMES_WITH.get(api_version.partition("/")[0])
            hint = f"install {owner}" if owner else "check the cluster's version"
            raise UnknownKind(f"the cluster has no {kind} of {api_version}", hint=hint) from e

    @contextlib.contextmanager
    def _somewhere(self) -> Iterator[None]:
        """Explain that what is written isn't found: its namespace isn't."""
        try:
            yield
        except ApiException as e:
            if e.status != 404:
                raise
            hint = f"kubectl create namespace {self.namespace}, then install the chart there"
            raise NotFound("there is no such namespace", where=self.namespace, hint=hint) from e

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        where = f"{what} in namespace {self.namespace}"
        try:
            yield
        except ApiException as e:
            # What the client makes of a certificate that it doesn't trust has no status.
            raise _refused(e, where) if e.status else untrusted(self._host) from e
        except (HTTPError, OSError) as e:
            if isinstance(e, SSLError) or isinstance(getattr(e, "reason", None), SSLError):
                raise untrusted(self._host) from e
            hint = "check the cluster and the kubeconfig's current context"
            raise VitruvianError("the API server can't be reached", where=self._host, hint=hint) from e
        except MISUNDERSTOOD as e:
            # So the client's discovery ends where a web server, or nothing that speaks HTTP, answers.
            raise VitruvianError("what answers is no API server", where=self._host, hint=_CONTEXT) from e


class _Impatient(client.ApiClient):  # type: ignore[misc]
    """Waits for no answer for ever."""

    def call_api(self, *words: Any, _request_timeout: Any = None, **more: Any) -> Any:
        return super().call_api(*words, _request_timeout=_request_timeout or _SECONDS, **more)


def _checked(found: Any) -> Object:
    """Return an object as it was answered; raises one of `MISUNDERSTOOD` where it is none."""
    metadata = found["metadata"]
    maps = (found.get("spec"), found.get("status"), metadata.get("labels"))
    texts = (metadata["name"], metadata["uid"], metadata["creationTimestamp"])
    if not all(isinstance(each, str) for each in texts) or not all(isinstance(each or {}, dict) for each in maps):
        raise TypeError("no object of Kubernetes")
    return dict(found)


def _refused(error: ApiException, where: str) -> VitruvianError:
    message = _message(error)
    if error.status == 404 and not str(error.body or "").lstrip().startswith("{"):
        return VitruvianError("what answers is no API server", where=where, hint=_CONTEXT)
    if error.status == 404:
        return NotFound("is not there", where=where, hint="'vitruvian status' lists what is")
    if error.status == 409:
        return Conflict(message, where=where, hint="choose another name")
    if error.status == 401:
        return VitruvianError("the API server doesn't know this user (401)", where=where, hint="log in again")
    if error.status == 403:
        return NotAllowed(message, where=where, hint="ask the cluster's administrator for this right")
    if "field not declared in schema" in message:
        hint = "what the cluster has for it is too old: 'vitruvian doctor' says what is needed"
        return VitruvianError(message, where=where, hint=hint)
    if error.status >= 500:
        return VitruvianError(f"the API server answered {error.status}: {message}", where=where, hint="try again later")
    return VitruvianError(message, where=where, hint="mend what it names, and run the same command again")


def _message(error: ApiException) -> str:
    try:
        told = str(json.loads(error.body)["message"])
    except MISUNDERSTOOD:
        # Not the API server, but what stands before it, with a page of its own.
        told = str(error.reason)
    return " ".join(told.split())[:_LONGEST_MESSAGE]
