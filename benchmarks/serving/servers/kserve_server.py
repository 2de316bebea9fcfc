"""KServe's own Python server, V1 protocol with base64, as its documentation's custom models do it."""

import base64
import sys

PORT = sys.argv.pop()
sys.argv += ["--http_port", PORT, "--enable_grpc", "false"]

import kserve  # noqa: E402
import work  # noqa: E402


class Classifier(kserve.Model):
    def load(self):
        work.load()
        self.ready = True
        return True

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, kserve.InferRequest):
            rows = len(payload.inputs[0].as_numpy())
            output = kserve.InferOutput("p", [rows, work.CLASSES], "FP32", [*work.classify(b"")] * rows)
            return kserve.InferResponse(payload.id or "", self.name, [output])
        return {"predictions": [work.classify(base64.b64decode(one["image"]["b64"])) for one in payload["instances"]]}


if __name__ == "__main__":
    model = Classifier("m")
    model.load()
    kserve.ModelServer(http_port=int(PORT), enable_grpc=False, workers=1).start([model])
