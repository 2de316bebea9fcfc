"""The whole examination: this machine, the cluster and the store, whichever of them are there."""

from __future__ import annotations

from importlib.util import find_spec

from vitruvian.doctor import client, cluster, storage
from vitruvian.doctor.finding import Check, Report, carry_out, note
from vitruvian.spec import Classifier


def examine(classifier: Classifier | None, namespace: str | None, context: str | None) -> Report:
    """Look at everything, and return what was found; nothing is raised for what is missing."""
    checks = client.checks()
    if find_spec("kubernetes") is None:
        skipped = note("kubeconfig", "not looked at: the extra cluster isn't installed")
        checks.append(Check(cluster.CLUSTER, skipped.name, lambda: skipped))
    else:
        checks += cluster.checks(classifier, namespace, context)
    if classifier is not None:
        checks += storage.checks(classifier)
    return carry_out(checks)
