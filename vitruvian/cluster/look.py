"""Reading a cluster without needing anything of it: no discovery, short waits, and rights that may be missing."""

from __future__ import annotations

import contextlib
import json
from typing import Final
from urllib.parse import urlencode

from kubernetes import client, dynamic
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError, SSLError

from vitruvian.cluster.kubeconfig import choose, untrusted
from vitruvian.cluster.objects import Object
from vitruvian.errors import NotAllowed, NotFound, VitruvianError

_SECONDS: Final = (3, 5)
"""To connect, and between two parts of an answer."""
_AT_ONCE: Final = 32


class Look:
    """A cluster, and one namespace of it, to look at; raises `VitruvianError` where none is configured."""

    def __init__(self, namespace: str | None = None, context: str | None = None) -> None:
        chosen = choose(namespace, context)
        self.context, self.namespace = chosen.context, chosen.namespace
        configuration = client.Configuration.get_default_copy()
        configuration.retries = False
        configuration.connection_pool_maxsize = _AT_ONCE
        self.host: str = configuration.host
        # Without discovery, which takes a request for each group of types.
        self._client = dynamic.DynamicClient(client.ApiClient(configuration), discoverer=lambda *_: None)

    def get(self, path: str, **query: str) -> Object:
        """Return what is at a path of the API server; raises `NotFound`, `NotAllowed` or `VitruvianError`."""
        return self._ask("get", f"{path}?{urlencode(query)}" if query else path)

    def named(self, path: str) -> Object | None:
        """Return what is at a path; None where there is nothing."""
        with contextlib.suppress(NotFound):
            return self.get(path)
        return None

    def items(self, path: str, **query: str) -> list[Object]:
        """Return the objects of a list; none where the cluster doesn't know the type."""
        found = self.named(f"{path}?{urlencode(query)}" if query else path)
        return [] if found is None else list(found.get("items") or ())

    def here(self, group_version: str, plural: str, name: str) -> str:
        """Return the path of an object of the namespace."""
        root = f"/api/{group_version}" if "/" not in group_version else f"/apis/{group_version}"
        return f"{root}/namespaces/{self.namespace}/{plural}/{name}"

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Tell whether this user may do something in the namespace; `resource` may be pods/log."""
        name, _, part = resource.partition("/")
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        found = self._ask("post", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(found["status"]["allowed"])

    def _ask(self, method: str, path: str, body: Object | None = None) -> Object:
        try:
            answer = self._client.request(method, path, body=body, serialize=False, _request_timeout=_SECONDS)
        except ApiException as e:
            # What the client makes of a certificate that it doesn't trust has no status.
            raise _refused(e, path) if e.status else untrusted(self.host) from e
        except SSLError as e:
            raise untrusted(self.host) from e
        except (HTTPError, OSError, ValueError) as e:
            hint = "check the cluster and the kubeconfig's current context"
            raise VitruvianError("the API server can't be reached", where=self.host, hint=hint) from e
        try:
            return dict(json.loads(answer.data))
        except (TypeError, ValueError, RecursionError) as e:
            hint = "check the kubeconfig's current context"
            raise VitruvianError("what answers is no API server", where=self.host, hint=hint) from e


def _called(path: str) -> str:
    """Return what people call the object, or the list, at a path of the API server."""
    parts = path.strip("/").split("/")
    inside = parts[2:] if parts[0] == "api" else parts[3:]
    in_namespace = inside[:1] == ["namespaces"] and len(inside) > 2
    return " ".join(inside[2:] if in_namespace else inside) or path


def _refused(error: ApiException, path: str) -> VitruvianError:
    what = path.partition("?")[0]
    if error.status == 404:
        return NotFound("is not there", where=what)
    if error.status == 403:
        return NotAllowed(_called(what))
    if error.status == 401:
        hint = "log in again: on EKS 'aws eks update-kubeconfig --name CLUSTER'"
        return VitruvianError("the API server doesn't know this user (401)", hint=hint)
    return VitruvianError(f"the API server answered {error.status} {error.reason}", where=what, hint="try again later")
