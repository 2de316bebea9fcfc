"""MLServer's custom runtime: the picture as base64 in a V2 request; started by `mlserver start`."""

import base64

import work
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Classifier(MLModel):
    async def load(self):
        work.load()
        return True

    async def predict(self, payload):
        rows = [work.classify(base64.b64decode(item)) for item in payload.inputs[0].data]
        flat = [value for row in rows for value in row]
        output = ResponseOutput(name="p", shape=[len(rows), work.CLASSES], datatype="FP32", data=flat)
        return InferenceResponse(model_name=self.name, outputs=[output])
