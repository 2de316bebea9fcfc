"""Our server with the same work as the peers': access control, limits, metrics and request ids are on as always."""

import os
import sys
import tempfile
from pathlib import Path

# As `vitruvian serve` does.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

import work

from tests.bundles import make_bundle
from vitruvian.bundle import open_bundle
from vitruvian.inference import server
from vitruvian.inference.access.guard import Guard
from vitruvian.inference.access.keys import add, digest_of
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.server import Extras
from vitruvian.inference.service import Settings


class Working(Predictor):
    """Does `work` instead of decoding and a model of its own."""

    picture = np.zeros((32, 32, 3), np.uint8)
    answer = np.array([[1, 0, 0]], np.float32)

    def warm_up(self):
        pass

    def prepare(self, content, where):
        return self.picture

    def outputs(self, prepared, *, exact=False):
        for _ in prepared:
            work.classify(b"")
        return np.repeat(self.answer, len(prepared), axis=0)

    outputs_of_tensors = outputs


if __name__ == "__main__":
    if work.MODEL.startswith("/"):
        server.serve(open_bundle(work.MODEL), port=int(sys.argv[1]))
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), name="m", size=int(os.environ.get("BENCH_SIZE", "32")))
        # One at a time is what that model can do, and a second is what its clients wait.
        extras = Extras()
        key = os.environ.get("BENCH_KEY")
        if key:
            keys = Path(folder) / "keys.yaml"
            add(keys, "bench", digest_of(key))
            access = Path(folder) / "access.yaml"
            access.write_text("keys: keys.yaml\nrateLimit: {requestsPerMinute: 1.0e+9, burst: 1.0e+6}\n")
            extras = Extras(guard=lambda: Guard.open(access))
        settings = Settings(deadline_seconds=1.0, lanes=1) if work.MODEL == "sleep" else Settings()
        server.Predictor = Working
        server.serve(bundle, port=int(sys.argv[1]), settings=settings, extras=extras)
