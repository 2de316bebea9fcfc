"""Who is measured: how each server is installed, started and asked."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.load import request
from benchmarks.serving.running import Running, free_port, running, until_ready

SERVERS = Path(__file__).parent / "servers"
ENVIRONMENTS = Path("build/peers")


@dataclass(frozen=True)
class Peer:
    """One server: what it is called, what it needs, how it is started and how a picture is sent to it."""

    name: str
    command: Callable[[Path, int, Path], list[str | Path]]
    """From the interpreter, the port and a folder of its own."""
    ask: Callable[[bytes], bytes]
    """From a JPEG to a request."""
    packages: tuple[str, ...] = ()
    """Installed into an environment of its own; none: they are in this one."""
    python: str = "3.11"
    variables: Mapping[str, str] = field(default_factory=dict)
    models: frozenset[str] = frozenset({"sleep", "null"})
    ready: str = ""
    """Where it tells that it is ready, if it listens before."""

    def interpreter(self) -> Path:
        """Return the interpreter of this peer's environment, made where it isn't there yet."""
        if not self.packages:
            return Path(sys.executable)
        environment = (ENVIRONMENTS / self.name.replace(" ", "-")).absolute()
        python = environment / "bin/python"
        if not (environment / "ready").exists():
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "-q", "--clear", "--python", self.python, environment], check=True)
            subprocess.run([*uv, "pip", "install", "-q", "--python", python, *self.packages], check=True)
            (environment / "ready").touch()
        return python

    @contextmanager
    def running(self, model: str, **variables: str) -> Iterator[Running]:
        """Run it with one of the models of servers/work.py."""
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="peer-") as folder:
            environment = {"BENCH_MODEL": model, "PYTHONPATH": str(SERVERS), **self.variables, **variables}
            command = self.command(self.interpreter(), port, Path(folder))
            with running(command, port, environment=environment) as server:
                if self.ready:
                    until_ready(server, self.ready)
                yield server


def _script(name: str) -> Callable[[Path, int, Path], list[str | Path]]:
    return lambda python, port, folder: [python, SERVERS / name, str(port)]


def _bentoml(python: Path, port: int, folder: Path) -> list[str | Path]:
    serve = ["serve", "bentoml_service:Classifier", "--host", "127.0.0.1", "--port", str(port)]
    return [python, "-m", "bentoml", *serve, "--working-dir", SERVERS]


def _mlserver(python: Path, port: int, folder: Path) -> list[str | Path]:
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    model = {"name": "m", "implementation": "mlserver_model.Classifier"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [python.parent / "mlserver", "start", folder]


def _json(path: str, document: Callable[[str], object]) -> Callable[[bytes], bytes]:
    def ask(jpeg: bytes) -> bytes:
        body = json.dumps(document(base64.b64encode(jpeg).decode())).encode()
        return request(path, body, {"Content-Type": "application/json"})

    return ask


def _raw(path: str) -> Callable[[bytes], bytes]:
    return lambda jpeg: request(path, jpeg, {"Content-Type": "image/jpeg"})


def v2_binary(path: str, tensor: Mapping[str, object], blob: bytes) -> bytes:
    """Return a request of the Open Inference Protocol with one input in its binary extension."""
    entry = {**tensor, "parameters": {"binary_data_size": len(blob)}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    fields = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return request(path, head + blob, fields)


def picture_v2(path: str, name: str, shape: list[int]) -> Callable[[bytes], bytes]:
    """Return what sends a JPEG as a BYTES tensor in the binary extension."""

    def ask(jpeg: bytes) -> bytes:
        tensor = {"name": name, "shape": shape, "datatype": "BYTES"}
        return v2_binary(path, tensor, struct.pack("<I", len(jpeg)) + jpeg)

    return ask


OURS = Peer("vitruvian", _script("vitruvian_server.py"), _raw("/predict/image"), ready="/v2/health/ready")
OURS_V2 = Peer("vitruvian, V2 binary", OURS.command, picture_v2("/v2/models/m/infer", "image", [1]), ready=OURS.ready)
OURS_BASE64 = Peer("vitruvian, base64", OURS.command, _json("/predict", lambda text: {"image": text}), ready=OURS.ready)

KSERVE = Peer(
    "kserve 0.21",
    _script("kserve_server.py"),
    _json("/v1/models/m:predict", lambda text: {"instances": [{"image": {"b64": text}}]}),
    models=frozenset({"sleep", "null", "vit"}),
)
FASTAPI = Peer(
    "FastAPI + torch",
    _script("fastapi_server.py"),
    _json("/predict", lambda text: {"image": text}),
    models=frozenset({"sleep", "null", "vit"}),
)
RAY = Peer("ray serve 2.60", _script("ray_server.py"), _raw("/"))
LITSERVE = Peer(
    "litserve 0.2.19",
    _script("litserve_server.py"),
    _json("/predict", lambda text: {"image": text}),
    ("litserve==0.2.19", "numpy", "pillow"),
)
BENTOML = Peer(
    "bentoml, 1 s limit",
    _bentoml,
    _json("/predict", lambda text: {"images": [text]}),
    ("bentoml==1.4.40", "numpy", "pillow"),
    variables={"BENTOML_DO_NOT_TRACK": "true"},
)
MLSERVER = Peer(
    "mlserver 1.7.1",
    _mlserver,
    _json(
        "/v2/models/m/infer",
        lambda text: {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]},
    ),
    ("mlserver==1.7.1", "numpy", "pillow"),
)
TRITON = Peer(
    "pytriton 0.7.0",
    _script("pytriton_server.py"),
    picture_v2("/v2/models/m/infer", "image", [1, 1]),
    ("nvidia-pytriton==0.7.0",),
    # Its server links a Python of its own, which other builds than Debian's crash.
    python="/usr/bin/python3",
)
PEERS = (KSERVE, FASTAPI, RAY, LITSERVE, BENTOML, MLSERVER, TRITON)
