"""A published bundle as a KServe InferenceService. Pure: from a declaration to plain objects.

Fields as in KServe 0.20's `serving.kserve.io/v1beta1`, Standard mode. The ServingRuntime `vitruvian` of the chart says
how a server's pod looks; here is only what differs from one classifier to the next.
"""

from __future__ import annotations

from typing import Final

from vitruvian.cluster.objects import VERSION, Object, bundle_in_reach, check_host, check_name, labels, servers_of
from vitruvian.spec import Classifier, Replicas

KIND: Final = ("serving.kserve.io/v1beta1", "InferenceService")
# KServe's Service is NAME-predictor, and a Service's name has 63 characters at most.
_LONGEST_NAME: Final = 53
POD_LABEL: Final = "serving.kserve.io/inferenceservice"
STORAGE_CONTAINER: Final = "vitruvian"
_SERVICE_ACCOUNT: Final = "vitruvian-server"
# The chart's longest server.drainSeconds, and what a server then takes for the answers it still owes.
_GRACE_SECONDS: Final = 155


def inference_service(classifier: Classifier, bundle: str, version: str, namespace: str) -> Object:
    """Return the InferenceService that serves one version from its address.

    Raises `SpecError` for a bundle that pods can't reach, and for a name that KServe makes no host of.
    """
    replicas = classifier.spec.serving.replicas
    check_name(classifier.name, KIND[1], _LONGEST_NAME)
    # The longest of the hosts that KServe makes; without one of them it makes no Ingress at all.
    check_host(f"{classifier.name}-predictor-{namespace}")
    annotations = {"serving.kserve.io/deploymentMode": "Standard", VERSION: version}
    predictor: Object = {
        "serviceAccountName": _SERVICE_ACCOUNT,
        # Others take s3://, too, as the one that KServe's own chart brings, and which of them is taken isn't defined.
        "storageContainerName": STORAGE_CONTAINER,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "minReplicas": replicas.min,
        "maxReplicas": replicas.max,
        "model": {
            "modelFormat": {"name": "vitruvian"},
            "protocolVersion": "v2",
            "runtime": "vitruvian",
            "storageUri": bundle_in_reach(bundle),
        },
    }
    if replicas.queue_length is None:
        predictor |= {"scaleMetric": "cpu", "scaleTarget": replicas.cpu_percent}
    else:
        # KServe's own autoscaler looks at one metric only; see `autoscaler`.
        annotations["serving.kserve.io/autoscalerClass"] = "external"
    return {
        "apiVersion": KIND[0],
        "kind": KIND[1],
        "metadata": {
            "name": classifier.name,
            "namespace": namespace,
            "labels": labels(classifier.name, "server"),
            "annotations": annotations,
        },
        "spec": {"predictor": predictor},
    }


def autoscaler(classifier: Classifier, namespace: str) -> Object | None:
    """Return the HorizontalPodAutoscaler for CPU and queue; None where KServe's own is enough.

    The queue is the Pods metric `vitruvian_queue_length`, as a Prometheus adapter offers it.
    """
    replicas: Replicas = classifier.spec.serving.replicas
    if replicas.queue_length is None:
        return None
    # KServe takes an autoscaler of the Deployment's name for its own, and deletes it.
    name, deployment = servers_of(classifier.name), f"{classifier.name}-predictor"
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": replicas.cpu_percent}}
    queue = {
        "metric": {"name": "vitruvian_queue_length"},
        "target": {"type": "AverageValue", "averageValue": f"{round(1000 * replicas.queue_length)}m"},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(classifier.name, "server")},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": replicas.min,
            "maxReplicas": replicas.max,
            "metrics": [{"type": "Resource", "resource": cpu}, {"type": "Pods", "pods": queue}],
        },
    }


def disruption_budget(classifier: Classifier, namespace: str) -> Object | None:
    """Return the PodDisruptionBudget by which nodes are drained server by server; None where one may be all there is.

    KServe makes none.
    """
    if classifier.spec.serving.replicas.min < 2:
        return None
    name = servers_of(classifier.name)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(classifier.name, "server")},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {POD_LABEL: classifier.name}}},
    }
