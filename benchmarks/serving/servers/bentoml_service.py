"""BentoML with the latency limit that held best of all peers; started by `bentoml serve`."""

import base64

import bentoml
import work


@bentoml.service(traffic={"timeout": 30}, workers=1)
class Classifier:
    def __init__(self):
        work.load()

    @bentoml.api(batchable=True, max_batch_size=2, max_latency_ms=1000)
    def predict(self, images: list[str]) -> list[list[float]]:
        return [work.classify(base64.b64decode(image)) for image in images]
