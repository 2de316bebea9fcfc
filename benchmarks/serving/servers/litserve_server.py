"""LitServe as its quick start has it."""

import base64
import sys

import litserve
import work


class Api(litserve.LitAPI):
    def setup(self, device):
        work.load()

    def decode_request(self, request):
        return base64.b64decode(request["image"])

    def predict(self, jpeg):
        return work.classify(jpeg)

    def encode_response(self, output):
        return {"probabilities": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="error")
