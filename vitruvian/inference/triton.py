"""What Triton's extensions of the protocol tell of a model: its statistics and its configuration, for its tools.

https://github.com/triton-inference-server/server/tree/main/docs/protocol (statistics, model configuration)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from prometheus_client.samples import Sample

from vitruvian.bundle import Bundle
from vitruvian.inference.metrics import Identity
from vitruvian.inference.oip import model_metadata
from vitruvian.observability import metrics as names

_ROUTES: Final = (
    *("/predict", "/predict/image", "/predict/batch", "/infer", ":predict", "/v1/embeddings", "/compare"),
    *("/ModelInfer", "/ModelStreamInfer"),
)
"""How the routes end that predict."""
_STAGES: Final = {"queue": "queue", "decode": "compute_input", "predict": "compute_infer"}
_TYPES: Final = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}


def statistics(samples: Iterable[Sample], identity: Identity) -> dict[str, Any]:
    """Return one version's statistics since the server began, of its metrics' samples.

    Durations are sums in nanoseconds; those of requests count where they are answered well, or not. The last inference
    is told in milliseconds of Unix time, 0 where there was none.
    """
    stages = {name: {"count": 0, "ns": 0} for name in _STAGES.values()}
    batches = {"count": 0, "sum": 0}
    codes: dict[bool, int] = {True: 0, False: 0}
    seconds = last = 0.0
    labels = dict(zip(names.IDENTITY, identity, strict=True))
    for sample in samples:
        if any(sample.labels.get(name) != value for name, value in labels.items()):
            continue
        asked = sample.labels.get("route", "").endswith(_ROUTES)
        family, _, kind = sample.name.rpartition("_")
        if sample.name == names.REQUESTS.name and asked:
            codes[sample.labels["code"] == "200"] += int(sample.value)
        elif sample.name == f"{names.REQUEST_TIME.name}_sum" and asked:
            seconds += sample.value
        elif sample.name == names.LAST_INFERENCE.name:
            last = sample.value
        elif family == names.BATCH_SIZE.name and kind in batches:
            batches[kind] = int(sample.value)
        elif family == names.STAGE_TIME.name and kind in ("count", "sum"):
            stage = stages[_STAGES[sample.labels["stage"]]]
            stage["ns" if kind == "sum" else "count"] = int(sample.value * (1e9 if kind == "sum" else 1))
    # How long requests took isn't kept by what became of them: each gets its share of the whole.
    share = seconds * 1e9 / max(1, sum(codes.values()))
    success, fail = ({"count": count, "ns": int(count * share)} for count in (codes[True], codes[False]))
    nothing = {"count": 0, "ns": 0}
    return {
        "name": labels["classifier"],
        "version": labels["version"],
        "last_inference": int(last * 1000),
        "inference_count": batches["sum"],
        "execution_count": batches["count"],
        "inference_stats": {
            "success": success,
            "fail": fail,
            **stages,
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
    }


def configuration(bundle: Bundle, max_inputs: int) -> dict[str, Any]:
    """Return a model's configuration; a dimension for the inputs of one request comes before those that it names."""
    about = model_metadata(bundle)

    def described(tensor: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": tensor["name"],
            "data_type": _TYPES[tensor["datatype"]],
            "dims": tensor["shape"][1:] or [1],
        }

    # A request has one of the inputs.
    inputs = [{**described(tensor), "optional": True} for tensor in about["inputs"]]
    return {
        "name": about["name"],
        "platform": about["platform"],
        "backend": "vitruvian",
        "max_batch_size": max_inputs,
        "input": inputs,
        "output": [described(tensor) for tensor in about["outputs"]],
    }
