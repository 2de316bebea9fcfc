"""A Kubernetes API server in this process: it keeps objects, applies, lists by labels, deletes and refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

Object = dict[str, Any]

KINDS = {
    "v1": {"pods": "Pod", "configmaps": "ConfigMap", "events": "Event"},
    "apps/v1": {"deployments": "Deployment"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "networking.k8s.io/v1": {"ingresses": "Ingress"},
    "serving.kserve.io/v1beta1": {"inferenceservices": "InferenceService"},
    "ray.io/v1": {"rayservices": "RayService", "rayjobs": "RayJob"},
    "vitruvian.dev/v1alpha1": {"classifiers": "Classifier"},
}


@dataclass
class ApiServer:
    """What it keeps, by resource and name, and what it refuses."""

    url: str = ""
    kept: dict[tuple[str, str], Object] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verbs and resources that nobody may use."""
    status: dict[str, Object] = field(default_factory=dict)
    """The status that a controller gives to each new object of a kind."""
    unknown: set[str] = field(default_factory=set)
    """Groups and versions that aren't there."""
    _uids: int = 0

    def keep(self, resource: str, made: Object) -> Object:
        """Keep an object as if it had been applied."""
        name = made["metadata"]["name"]
        before = self.kept.get((resource, name), {}).get("metadata", {})
        self._uids += 1
        metadata = {
            **made["metadata"],
            "uid": before.get("uid", f"uid-{self._uids}"),
            "generation": before.get("generation", 0) + 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        status = dict(self.status.get(made["kind"]) or made.get("status") or {})
        if "observedGeneration" in status:
            status["observedGeneration"] = metadata["generation"]
        self.kept[resource, name] = {**made, "metadata": metadata, "status": status}
        return self.kept[resource, name]

    def names(self) -> set[str]:
        """Return all that is kept, as resource/name."""
        return {f"{resource}/{name}" for resource, name in self.kept}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Object]:
        parts = path.strip("/").split("/")
        if parts in (["version"], ["apis"], ["api"]):
            return 200, self._discovery(parts[0])
        group = "/".join(parts[1:2] if parts[0] == "api" else parts[1:3])
        inside = parts[2:] if parts[0] == "api" else parts[3:]
        if group not in KINDS or group in self.unknown:
            return 404, {"message": "not found"}
        if not inside:
            return 200, self._resources(group)
        resource, *names = inside[2:] if inside[0] == "namespaces" and len(inside) > 2 else inside
        name = "/".join(names)
        verb = {"GET": "get" if name else "list", "PATCH": "patch", "POST": "create", "DELETE": "delete"}[method]
        if (verb, resource) in self.forbidden:
            return 403, {"message": f'{resource} is forbidden: User "somebody" cannot {verb} resource "{resource}"'}
        if verb == "list":
            selected = query.get("labelSelector", [""])[0]
            items = [each for (kind, _), each in self.kept.items() if kind == resource and _matches(each, selected)]
            return 200, {"apiVersion": group, "kind": f"{KINDS[group].get(resource, '')}List", "items": items}
        if name.endswith("/status"):
            found = self.kept[resource, name.removesuffix("/status")]
            found["status"] = yaml.safe_load(body)["status"]
            return 200, found
        if verb in ("create", "patch"):
            return 200, self.keep(resource, yaml.safe_load(body))
        if (resource, name) not in self.kept:
            return 404, {"message": f'{resource} "{name}" not found'}
        found = self.kept[resource, name]
        if verb == "delete":
            self._delete(found["metadata"]["uid"])
        return 200, found

    def _delete(self, uid: str) -> None:
        for key, each in list(self.kept.items()):
            owners = [owner["uid"] for owner in each["metadata"].get("ownerReferences", ())]
            if uid == each["metadata"]["uid"] or uid in owners:
                self.kept.pop(key, None)

    def _discovery(self, what: str) -> Object:
        if what == "version":
            return {"major": "1", "minor": "33"}
        if what == "api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        there = [tuple(each.split("/")) for each in KINDS if "/" in each and each not in self.unknown]
        versions = [{"groupVersion": f"{group}/{version}", "version": version} for group, version in there]
        return {
            "kind": "APIGroupList",
            "groups": [
                {"name": group, "versions": [each], "preferredVersion": each}
                for (group, _), each in zip(there, versions, strict=True)
            ],
        }

    def _resources(self, group: str) -> Object:
        verbs = ["create", "delete", "get", "list", "patch"]
        resources = [
            {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": verbs}
            for each, kind in KINDS[group].items()
            for name in (each, f"{each}/status")
        ]
        return {"kind": "APIResourceList", "groupVersion": group, "resources": resources}


def _matches(found: Object, selector: str) -> bool:
    marks = found["metadata"].get("labels", {})
    return all(
        marks.get(key) == value if separator else key in marks
        for key, separator, value in (each.partition("=") for each in selector.split(",") if each)
    )


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """Run an empty one."""
    made = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            asked = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, told = made.answer(self.command, asked.path, parse_qs(asked.query), body)
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Have the client take a file for its kubeconfig: it reads KUBECONFIG once, when it is imported."""
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))


def kubeconfig(server: str) -> str:
    """Return a kubeconfig for the namespace `studio` of a server."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "studio"}}],
            "current-context": "x",
        }
    )
