"""Triton's own server with a Python model, through PyTriton."""

import sys

import numpy as np
import work
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


@batch
def infer(image):
    return {"p": np.array([work.classify(row[0]) for row in image], np.float32)}


if __name__ == "__main__":
    work.load()
    port = int(sys.argv[1])
    settings = TritonConfig(http_port=port, grpc_port=port + 1, metrics_port=port + 2, http_address="127.0.0.1")
    with Triton(config=settings) as triton:
        triton.bind(
            model_name="m",
            infer_func=infer,
            inputs=[Tensor(name="image", dtype=np.bytes_, shape=(1,))],
            outputs=[Tensor(name="p", dtype=np.float32, shape=(work.CLASSES,))],
            config=ModelConfig(max_batch_size=16),
        )
        triton.serve()
