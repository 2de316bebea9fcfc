"""Which cluster, and which namespace of it, a kubeconfig or a pod's service account names; nothing is asked yet."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from vitruvian.cluster.objects import is_namespace
from vitruvian.errors import VitruvianError

_DEFAULT: Final = "default"
_LONGEST_MESSAGE: Final = 300
_OF_A_POD: Final = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@dataclass(frozen=True)
class Chosen:
    """A context's name and the namespace to work in."""

    context: str
    namespace: str


def choose(namespace: str | None, context: str | None) -> Chosen:
    """Make the client use a context, None for the current one; raises `VitruvianError` where there is none to use."""
    if namespace is not None and not is_namespace(namespace):
        hint = "use lower-case letters, digits and '-', 63 characters at most"
        raise VitruvianError(f"'{namespace[:70]}' can't be a namespace's name", hint=hint)
    try:
        with _logging_in():
            config.load_kube_config(context=context)
        name, found = _context(context)
        if not client.Configuration.get_default_copy().host.startswith(("http://", "https://")):
            raise ValueError("a server's address begins with https://")
    except ConfigException as e:
        if context is not None:
            hint = "see 'kubectl config get-contexts'"
            raise VitruvianError(f"the kubeconfig has no context '{context}'", hint=hint) from e
        name, found = "of this pod", _in_a_pod(e)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:
        what = " ".join(str(e).split())
        raise VitruvianError(f"the kubeconfig can't be read ({what})", hint="mend it, or set KUBECONFIG") from e
    return Chosen(name, namespace or found or _DEFAULT)


def namespace_of() -> str:
    """Return the namespace that the current context names; `default` where there is no kubeconfig."""
    with contextlib.suppress(VitruvianError):
        return choose(None, None).namespace
    return _DEFAULT


def untrusted(host: str) -> VitruvianError:
    """Return the error for a server whose certificate isn't the kubeconfig's."""
    hint = "check the certificate-authority of the kubeconfig's cluster"
    return VitruvianError("the API server's certificate isn't trusted", where=host, hint=hint)


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(" ".join(record.getMessage().split()))


@contextlib.contextmanager
def _logging_in() -> Iterator[None]:
    """Raise `VitruvianError` where the kubeconfig's command that logs in fails, as `aws` on EKS: the client logs it."""
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(errors)
    if errors.messages:
        what = f"the kubeconfig's command that logs in failed ({errors.messages[-1][:_LONGEST_MESSAGE]})"
        raise VitruvianError(what, hint="install or mend it until 'kubectl get namespaces' works")


def _context(context: str | None) -> tuple[str, str | None]:
    contexts, active = config.list_kube_config_contexts()
    chosen = next((each for each in contexts if each["name"] == context), active)
    return str(chosen["name"]), (chosen.get("context") or {}).get("namespace")


def _in_a_pod(error: ConfigException) -> str | None:
    try:
        config.load_incluster_config()
        with open(_OF_A_POD) as file:
            return file.read().strip()
    except (ConfigException, OSError):
        hint = "set KUBECONFIG, or see 'kubectl config get-contexts'"
        raise VitruvianError(f"no cluster is configured ({error})", hint=hint) from error
