"""Requests of every protocol, mutated: no answer is the server's fault, and it stays as it was.

The mutations are drawn by hypothesis, so that a request that breaks the server is shrunk to what breaks it.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.serving.load import HOST
from benchmarks.serving.peers import Peer
from benchmarks.serving.running import Running, free_port, running, until_ready
from tests.bundles import make_bundle, picture

_REQUESTS = 100_000
_PATIENCE = 20.0
"""Seconds for the answer to a request that is whole."""
_MOMENT = 0.1
"""Seconds for the answer to one that may lack its end."""
_LINE = b"\r\n"
_LENGTH = b"Inference-Header-Content-Length"
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\x00", "data:,", "http://127.0.0.1/", "../../etc/passwd", "9" * 400, "1e999", "\ud800"]),
    st.sampled_from([[], {}, [[]], [{}], [None] * 70, {"": {}}, [[[[[]]]]]]),
)
_WORDS = st.sampled_from(
    [
        *("0", "-1", "1", "999999999999999999999", "1e3", "nan", "", "*/*", "fp32", "canary", "bytes=0-1", "Bearer x"),
        *("gzip", "deflate", "gzip, gzip", "identity;q=0", "br", "chunked", "close", "100-continue", "websocket"),
        *("application/json", "image/png", "text/plain", "application/octet-stream", "x; charset=utf-7"),
        *("multipart/form-data", "multipart/form-data; boundary=", "application/x-www-form-urlencoded"),
        *("=?utf-8?q?x?=", "a" * 9000, "\xff\xfe"),
    ]
)
_NAMES = st.sampled_from(
    [
        *("Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Expect", "Accept", "Range"),
        *("Upgrade", "Host", "Origin", "X-Request-ID", "Cookie", "Connection", "Accept-Encoding", "Authorization"),
        *("Inference-Header-Content-Length", "X-Request-Timeout", "X-Envoy-Expected-Rq-Timeout-Ms", "X-Precision"),
        *("X-API-Key", "X-Vitruvian-Track"),
    ]
)
_ODD = st.sampled_from(["%00", "%ff", "/..", "//", "?top_k=x", "?", "#", "/versions/9", ":predict", "%2f", "é", " "])
_METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", ""])


@dataclass(frozen=True)
class Request:
    """A request in its parts; whole as long as nobody mutates its bytes or its length."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    raw: bytes | None = None
    """What is sent instead of all that."""

    @property
    def whole(self) -> bool:
        """Whether the server knows where it ends, and so owes an answer."""
        known = {name.lower() for name, _ in self.headers}
        return self.raw is None and not known & {"content-length", "transfer-encoding", "expect", "upgrade"}

    def sent(self) -> bytes:
        """Return its bytes."""
        if self.raw is not None:
            return self.raw
        fields = list(self.headers)
        if not any(name.lower() == "content-length" for name, _ in fields):
            fields.append(("Content-Length", str(len(self.body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{self.method} {self.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + self.body


@dataclass
class Outcome:
    """What came of all requests."""

    answers: Counter[object] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    alive: bool = False
    grown: int = 0
    """Bytes resident at the end beyond those after the first tenth."""

    @property
    def sent(self) -> int:
        return sum(self.answers.values())


@cache
def seeds() -> list[Request]:
    """Return a good request of each kind that a CLIP's server answers."""
    image = picture("red", (24, 20), "JPEG")
    text = base64.b64encode(image).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    pixels = np.zeros((1, 3, 32, 32), "<f4")
    described: dict[str, Any] = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 32, 32]}
    described["parameters"] = {"binary_data_size": pixels.nbytes}
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True, "classification": 2}}]
    binary = json.dumps({"inputs": [described], "outputs": wanted}).encode()
    sized = {**tensor, "parameters": {"binary_data_size": 4 + len(image)}}
    del sized["data"]
    raw = json.dumps({"inputs": [sized]}).encode()
    own = {"image": text, "labels": ["red", "green"], "templates": ["a {label} thing"], "top_k": 1}
    json_type = (("Host", HOST), ("Content-Type", "application/json"))
    form = _form(("file", image), ("top_k", b"2"), ("labels", b'["red", "blue"]'))
    forms = (("Host", HOST), ("Content-Type", "multipart/form-data; boundary=cut"))

    def post(path: str, asked: Any) -> Request:
        return Request("POST", path, json_type, json.dumps(asked).encode())

    def binary_post(head: bytes, rest: bytes) -> Request:
        fields = (("Host", HOST), ("Inference-Header-Content-Length", str(len(head))))
        return Request("POST", "/v2/models/yoga/infer", fields, head + rest)

    reads = ["/", "/health", "/limits", "/metrics", "/v2", "/v2/models", "/v2/models/yoga", "/v2/models/yoga/config"]
    reads += ["/v2/models/stats", "/v2/models/yoga/versions/v1/stats", "/v1/models", "/v1/models/yoga", "/tracks"]
    return [
        Request("POST", "/predict/image", (("Host", HOST), ("Content-Type", "image/jpeg")), image),
        Request("POST", "/predict/image", forms, form),
        Request("POST", "/predict/batch", forms, _form(("files", image), ("files", image))),
        post("/predict", own),
        post("/predict", {"url": "http://127.0.0.1/x.png"}),
        post("/predict/batch", {"images": [text, text], "precision": "fp32"}),
        post("/v2/models/yoga/infer", {"id": "1", "inputs": [tensor], "outputs": wanted, "parameters": {"top_k": 1}}),
        post("/v2/models/yoga/infer", {"inputs": [{**described, "parameters": {}, "data": [0.0] * pixels.size}]}),
        binary_post(binary, pixels.tobytes()),
        binary_post(raw, struct.pack("<I", len(image)) + image),
        post("/v1/models/yoga:predict", {"instances": [{"image_bytes": {"b64": text}}]}),
        post("/v1/embeddings", {"input": ["red", f"data:image/jpeg;base64,{text}"], "encoding_format": "base64"}),
        post("/v2/repository/index", {"ready": True}),
        post("/compare", {"image": text}),
        *(Request("GET", path, (("Host", HOST), ("Accept", "text/html"))) for path in reads),
    ]


def _form(*parts: tuple[str, bytes]) -> bytes:
    lines = [
        b'--cut\r\nContent-Disposition: form-data; name="%b"; filename="x"\r\n\r\n%b\r\n' % (name.encode(), content)
        for name, content in parts
    ]
    return b"".join(lines) + b"--cut--\r\n"


@st.composite
def mutated(draw: st.DrawFn) -> Request:
    """Draw one of the good requests and change it once or a few times."""
    request = draw(st.sampled_from(seeds()))
    for _ in range(draw(st.integers(1, 3))):
        request = draw(st.sampled_from((_in_body, _in_json, _in_json, _in_headers, _in_line, _in_bytes)))(draw, request)
    return request


def _in_body(draw: st.DrawFn, request: Request) -> Request:
    return replace(request, body=_changed(draw, request.body))


def _in_json(draw: st.DrawFn, request: Request) -> Request:
    """Put an odd value somewhere into JSON, take something out of it, or name it otherwise."""
    head = request.body.split(b"}]}", 1)[0] + b"}]}" if any(n == _LENGTH.decode() for n, _ in request.headers) else b""
    text = head or request.body
    try:
        tree = json.loads(text)
    except ValueError:
        return _in_body(draw, request)
    places = list(_places(tree))
    if not places:
        return replace(request, body=json.dumps(draw(_VALUES)).encode())
    inside, key = draw(st.sampled_from(places))
    what = draw(st.sampled_from(("put", "put", "take", "twice", "rename")))
    if what == "put":
        inside[key] = draw(_VALUES)
    elif what == "take":
        del inside[key]
    elif isinstance(inside, list):
        inside.extend([inside[key]] * draw(st.integers(1, 80)))
    else:
        inside[draw(st.text(max_size=8))] = inside.pop(key)
    changed = json.dumps(tree).encode()
    if not head:
        return replace(request, body=changed)
    fields = tuple((name, str(len(changed)) if name == _LENGTH.decode() else value) for name, value in request.headers)
    return replace(request, body=changed + request.body[len(head) :], headers=fields)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in list(keys) for place in ((tree, key), *_places(tree[key]))][:200]


def _in_headers(draw: st.DrawFn, request: Request) -> Request:
    fields = list(request.headers)
    place = draw(st.integers(0, len(fields)))
    if place == len(fields):
        fields.append((draw(_NAMES), draw(_WORDS)))
    elif draw(st.booleans()):
        fields[place] = (fields[place][0], draw(_WORDS | st.text(st.characters(codec="latin-1"), max_size=12)))
    else:
        del fields[place]
    return replace(request, headers=tuple((name, value.replace("\r", "").replace("\n", "")) for name, value in fields))


def _in_line(draw: st.DrawFn, request: Request) -> Request:
    if draw(st.booleans()):
        return replace(request, method=draw(_METHODS))
    odd = draw(
        st.sampled_from(["%00", "%ff", "/..", "//", "?top_k=x", "?", "#", "/versions/9", ":predict", "%2f", "é", " "])
    )
    place = draw(st.integers(0, len(request.path)))
    return replace(request, path=request.path[:place] + odd + request.path[place:])


def _in_bytes(draw: st.DrawFn, request: Request) -> Request:
    """Change what the other mutations leave right: framing, lengths, the end."""
    # A request whose end is lacking costs a moment of waiting, so it comes less often.
    if draw(st.integers(0, 9)):
        return _in_body(draw, request)
    return replace(request, raw=_changed(draw, request.sent()))


def _changed(draw: st.DrawFn, content: bytes) -> bytes:
    place = draw(st.integers(0, len(content)))
    length = draw(st.integers(0, 64))
    kind = draw(st.sampled_from(("flip", "insert", "delete", "repeat", "cut")))
    before, after = content[:place], content[place:]
    if kind == "flip" and after:
        return before + bytes([after[0] ^ (1 << draw(st.integers(0, 7)))]) + after[1:]
    if kind == "delete":
        return before + after[length:]
    if kind == "repeat":
        return before + after[:length] * draw(st.integers(2, 20)) + after[length:]
    if kind == "cut":
        return before
    return before + draw(st.binary(min_size=1, max_size=8)) + after


def ask(port: int, request: Request) -> object:
    """Return the status of the answer; `nothing` or `closed` where there is none."""
    with socket.create_connection((HOST, port), timeout=_PATIENCE) as connection:
        connection.settimeout(_PATIENCE if request.whole else _MOMENT)
        got = b""
        with suppress(ConnectionError):
            connection.sendall(request.sent())
        try:
            while _LINE not in got:
                part = connection.recv(4096)
                if not part:
                    return "closed"
                got += part
        except TimeoutError:
            return "nothing"
        except ConnectionError:
            return "closed"
        return int(got.split(b" ", 2)[1])


def fuzz(count: int, number: int = 0, advance: Callable[[], None] = lambda: None) -> Outcome:
    """Send so many mutated requests to a server of its own, one after the other; `number` begins the sequence."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        make_bundle(Path(folder), clip=True)
        port = free_port()
        command = [sys.executable, "-c", "from vitruvian.cli import main; main()", "serve", f"{folder}/store"]
        with running([*command, "--port", str(port)], port, environment={"XDG_CACHE_HOME": folder}) as server:
            until_ready(server, "/v2/health/ready")
            for good in seeds():
                status = ask(port, good)
                assert isinstance(status, int) and status < 500, (good.path, status)
            try:
                _send(server, count, number, outcome, advance)
            except AssertionError as e:
                outcome.faults.append(str(e).splitlines()[0])
            outcome.alive = ask(port, seeds()[0]) == 200 and server.process.poll() is None
    return outcome


def _send(server: Running, count: int, number: int, outcome: Outcome, advance: Callable[[], None]) -> None:
    process = psutil.Process(server.process.pid)
    began: list[int] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(request=mutated())
    def send(request: Request) -> None:
        status = ask(server.port, request)
        outcome.answers[status] += 1
        advance()
        if not began and outcome.sent >= count // 10:
            began.append(process.memory_info().rss)
        fault = (isinstance(status, int) and status >= 500) or (request.whole and status == "nothing")
        assert not fault, f"{status}: {request.sent()[:2000]!r}"

    send()
    outcome.grown = process.memory_info().rss - began[0]


def run(console: Console, seconds: float, peers: Sequence[Peer] = ()) -> None:
    """Print what came of 100,000 requests."""
    began = time.monotonic()
    found = fuzz(_REQUESTS)
    answers = ", ".join(f"{status}: {times}" for status, times in sorted(found.answers.items(), key=str))
    console.print(
        f"mutated requests: {found.sent} in {time.monotonic() - began:.0f} s, {len(found.faults)} faults, the server "
        f"is {'alive' if found.alive else 'gone'}, its memory grew by {found.grown / 1e6:.1f} MB after the first tenth "
        f"({answers})",
        highlight=False,
    )
    for fault in found.faults:
        console.print(fault, highlight=False, markup=False)
