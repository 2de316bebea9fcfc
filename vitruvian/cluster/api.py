"""The few calls to the API server that runs need, with its refusals explained."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from vitruvian.cluster.rayjob import Object
from vitruvian.errors import Conflict, NotFound, VitruvianError

_RAYJOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}


class Cluster:
    """One namespace of the cluster that the kubeconfig, or a pod's service account, names.

    Raises `VitruvianError` where there is neither, or where the API server can't be reached or refuses.
    """

    def __init__(self, namespace: str | None = None, context: str | None = None) -> None:
        try:
            config.load_kube_config(context=context)
            active = config.list_kube_config_contexts()[1]
            found = active.get("context", {}).get("namespace")
        except ConfigException as e:
            found = _in_a_pod(e)
        self.namespace = namespace or found or "default"
        self.core = client.CoreV1Api()
        self.custom = client.CustomObjectsApi()

    def create(self, objects: list[Object]) -> None:
        """Create a run's objects; the RayJob owns the others, so that they go with it."""
        *others, rayjob = objects
        with self._explained(f"RayJob {rayjob['metadata']['name']}"):
            made = self.custom.create_namespaced_custom_object(namespace=self.namespace, body=rayjob, **_RAYJOBS)
        owner = {
            "apiVersion": rayjob["apiVersion"],
            "kind": rayjob["kind"],
            "name": made["metadata"]["name"],
            "uid": made["metadata"]["uid"],
        }
        for other in others:
            owned = {**other, "metadata": {**other["metadata"], "ownerReferences": [owner]}}
            with self._explained(f"{other['kind']} {other['metadata']['name']}"):
                self.core.create_namespaced_config_map(self.namespace, owned)

    def rayjobs(self, selector: str) -> list[Object]:
        """Return the RayJobs with these labels, the oldest first."""
        with self._explained("RayJobs"):
            listed = self.custom.list_namespaced_custom_object(
                namespace=self.namespace, label_selector=selector, **_RAYJOBS
            )
        return sorted(listed["items"], key=lambda job: job["metadata"]["creationTimestamp"])

    def rayjob(self, name: str) -> Object:
        """Return a RayJob; raises `NotFound`."""
        with self._explained(f"RayJob {name}"):
            found: Object = self.custom.get_namespaced_custom_object(namespace=self.namespace, name=name, **_RAYJOBS)
        return found

    def delete_rayjob(self, name: str) -> None:
        """Delete a RayJob and, before it is gone, all that it owns."""
        with self._explained(f"RayJob {name}"):
            self.custom.delete_namespaced_custom_object(
                namespace=self.namespace, name=name, propagation_policy="Foreground", **_RAYJOBS
            )

    def pods(self, selector: str) -> list[Any]:
        """Return the pods with these labels, the oldest first."""
        with self._explained("pods"):
            listed = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return sorted(listed, key=lambda pod: pod.metadata.creation_timestamp)

    def events(self, kind: str, name: str) -> list[Any]:
        """Return what the cluster tells of an object."""
        with self._explained("events"):
            fields = f"involvedObject.kind={kind},involvedObject.name={name}"
            return list(self.core.list_namespaced_event(self.namespace, field_selector=fields).items)

    def log(self, pod: str, container: str, since_seconds: int | None = None) -> Iterator[str]:
        """Yield the lines of a container's log until it ends, or until the connection breaks."""
        with self._explained(f"the log of pod {pod}"):
            more = {} if since_seconds is None else {"since_seconds": since_seconds}
            yield from watch.Watch().stream(
                self.core.read_namespaced_pod_log, name=pod, namespace=self.namespace, container=container, **more
            )

    def setting(self, config_map: str, key: str) -> str | None:
        """Return a value of a ConfigMap; None where there is no such ConfigMap or key."""
        try:
            with self._explained(f"ConfigMap {config_map}"):
                found = self.core.read_namespaced_config_map(config_map, self.namespace).data
        except NotFound:
            return None
        return None if found is None else found.get(key)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        where = f"{what} in namespace {self.namespace}"
        try:
            yield
        except ApiException as e:
            raise _refused(e, where) from e
        except HTTPError as e:
            hint = "check the cluster and the kubeconfig's current context"
            raise VitruvianError("the API server can't be reached", where=where, hint=hint) from e


def _in_a_pod(error: ConfigException) -> str | None:
    try:
        config.load_incluster_config()
        with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
            return file.read().strip()
    except (ConfigException, OSError):
        hint = "set KUBECONFIG, or see 'kubectl config get-contexts'"
        raise VitruvianError(f"no cluster is configured ({error})", hint=hint) from error


def _refused(error: ApiException, where: str) -> VitruvianError:
    message = _message(error)
    if error.status == 404 and "could not find the requested resource" in message:
        return VitruvianError("the cluster has no RayJob type", where=where, hint="install KubeRay 1.4 or newer")
    if error.status == 404:
        return NotFound("is not there", where=where, hint="'vitruvian status' lists what is")
    if error.status == 409:
        return Conflict(message, where=where, hint="choose another name")
    if error.status in (401, 403):
        return VitruvianError(message, where=where, hint="ask the cluster's administrator for this right")
    return VitruvianError(message, where=where, hint="mend what it names, and run the same command again")


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason).strip()
