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
        return {"predictions": [work.classify(base64.b64decode(one["image"]["b64"])) for one in payload["instances"]]}


if __name__ == "__main__":
    model = Classifier("m")
    model.load()
    kserve.ModelServer(http_port=int(PORT), enable_grpc=False, workers=1).start([model])
