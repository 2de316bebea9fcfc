"""A bundle behind KServe's own Python server, for those who have to run that one.

python -m vitruvian.serving.kserve --bundle s3://BUCKET/PREFIX --model_name yoga --http_port 8080

`vitruvian serve` speaks the same protocols without it, takes pictures in V2's binary extension, and refuses what it
can't answer in time; KServe's server does neither.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

import kserve
import numpy as np
from fastapi import HTTPException

from vitruvian.bundle import BundleInfo, open_bundle
from vitruvian.errors import DataError
from vitruvian.inference import oip
from vitruvian.inference.choice import fastest
from vitruvian.inference.envelope import problem_of
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.problems import Problem
from vitruvian.inference.protocol import DATATYPES, InferRequest, Malformed, Tensor, read_json
from vitruvian.inference.routes.taking import Files
from vitruvian.inference.routes.v1 import predictions
from vitruvian.inference.service import Service, Settings
from vitruvian.inference.startup import Startup
from vitruvian.machine import usable_cpus


class Classifier(kserve.Model):  # type: ignore[misc]
    """One bundle as a model of KServe's; ready once its golden example was predicted right."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name)
        self._address = address
        self._service: Service | None = None
        self._files = Files()

    def load(self) -> bool:
        """Open the bundle and predict its golden example; raises `BundleError`."""
        lanes = usable_cpus()
        bundle = fastest(open_bundle(self._address), lanes).named(self.name)
        predictor = Predictor.open(bundle, threads=1, lanes=lanes)
        predictor.warm_up()
        self._service = Service(predictor, Settings(), Startup())
        self._service.take_over()
        self.ready = True
        return self.ready

    def stop(self) -> None:
        """Let the threads end."""
        if self._service is not None:
            self._service.close()

    async def predict(
        self,
        payload: Mapping[str, Any] | Any,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """Answer V1's instances and V2's inputs; raises `HTTPException` with what is wrong."""
        service = self._service
        assert service is not None
        try:
            ticket = service.ticket()
            if isinstance(payload, kserve.InferRequest):
                asked, labels, templates = oip.take_texts(_request(payload))
                wanted = await service.wanted(labels, templates, asked.parameters.get("precision"), ticket)
                inputs = oip.inputs(asked, service.predictor, service.settings.max_inputs, wanted)
                outputs = oip.outputs(await service.predict(inputs, ticket))
                return _response(payload, service.predictor.bundle.info, outputs)
            document = _document(payload)
            return {"predictions": await predictions(document, service, ticket, self._files)}
        except (Problem, Malformed, DataError, MemoryError) as e:
            problem = problem_of(e)
            raise HTTPException(problem.kind.status, problem.detail, problem.headers) from e


def _document(payload: Any) -> Mapping[str, Any]:
    """Return the JSON object of a body, which KServe leaves as bytes unless its type says JSON; raises `Malformed`."""
    if isinstance(payload, bytes | str):
        return read_json(payload.encode() if isinstance(payload, str) else payload)
    if not isinstance(payload, Mapping):
        raise Malformed("the body is not a JSON object")
    return payload


def _request(payload: Any) -> InferRequest:
    """Return KServe's request as ours; raises `Malformed`."""
    return InferRequest(
        tuple(map(_tensor, payload.inputs)), payload.id, parameters=payload.parameters or {}, outputs={}
    )


def _tensor(given: Any) -> Tensor:
    shape = tuple(int(size) for size in given.shape)
    if given.datatype not in DATATYPES:
        raise Malformed(f"the datatype of input '{given.name}' is none of: {', '.join(DATATYPES)}")
    if given.datatype == "BYTES":
        items = [_bytes(item, given.name) for item in (given.as_numpy().ravel() if given.data is None else given.data)]
        if len(items) != math.prod(shape):
            raise Malformed(f"the shape of input '{given.name}' doesn't fit its data")
        return Tensor(given.name, "BYTES", shape, items)
    try:
        return Tensor(given.name, "FP32", shape, np.asarray(given.as_numpy(), np.float32))
    except (ValueError, TypeError) as e:
        raise Malformed(f"the shape of input '{given.name}' doesn't fit its data") from e


def _bytes(item: Any, name: str) -> bytes:
    """Return an item: bytes as gRPC carries them, or base64 as JSON does; raises `Malformed`."""
    from vitruvian.inference.protocol import read_base64

    return item if isinstance(item, bytes) else read_base64(item, f"an item of input '{name}'")


def _response(payload: Any, info: BundleInfo, outputs: list[Tensor]) -> Any:
    made = []
    for output in outputs:
        data: list[Any] = (
            [item.decode() for item in output.data] if isinstance(output.data, list) else output.data.ravel().tolist()
        )
        made.append(kserve.InferOutput(output.name, list(output.shape), output.datatype, data))
    return kserve.InferResponse(payload.id or "", info.name, made, model_version=info.version)


def main() -> None:
    """Serve until KServe's server ends."""
    from kserve.model_server import parser

    whole = argparse.ArgumentParser(parents=[parser], conflict_handler="resolve")
    whole.add_argument("--bundle", required=True, help="a bundle, or a classifier's artifacts")
    asked, _ = whole.parse_known_args()
    model = Classifier(asked.model_name, asked.bundle)
    model.load()
    kserve.ModelServer(http_port=asked.http_port, grpc_port=asked.grpc_port, enable_grpc=asked.enable_grpc).start(
        [model]
    )


if __name__ == "__main__":
    main()
