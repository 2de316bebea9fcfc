"""What clients can do to a server before they have asked for anything: on real sockets of a real server."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.bundles import picture
from tests.serving import sample
from vitruvian.bundle import open_bundle
from vitruvian.inference import connections
from vitruvian.inference.connections import MOST_HEAD_BYTES
from vitruvian.inference.server import Extras, Server


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    server = Server(open_bundle(store)).start()
    yield server.address
    server.stop()


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=60)


def read_to_the_end(raw: socket.socket) -> bytes:
    answer = b""
    while chunk := raw.recv(65536):
        answer += chunk
    return answer


def head(size: int) -> bytes:
    """Return a request whose line and headers have so many bytes, as the server counts them."""
    start = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: "
    counted = len("/v2/health/live") + sum(map(len, ("Host", "x", "Connection", "close", "X-Long"))) + 3 * 4
    return start + b"a" * (size - counted) + b"\r\n\r\n"


def test_a_head_as_large_as_allowed_is_answered_and_a_larger_one_is_431(address: str) -> None:
    with connect(address) as raw:
        raw.sendall(head(MOST_HEAD_BYTES - 1000))
        assert read_to_the_end(raw).startswith(b"HTTP/1.1 200 ")
    for size in (MOST_HEAD_BYTES + 1, 3 * MOST_HEAD_BYTES):
        with connect(address) as raw:
            raw.sendall(head(size))
            answer = read_to_the_end(raw)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"urn:vitruvian:problem:head-too-large" in answer


def test_what_never_became_a_request_is_counted_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    server = Server(open_bundle(store), extras=Extras(admin_port=0)).start()
    sent = {
        "400": b"nonsense\r\n\r\n",
        "408": b"GET / HTTP/1.1\r\nHost",
        "431": head(MOST_HEAD_BYTES + 1) + head(200),
    }
    try:
        for times, (code, content) in enumerate(sent.items(), start=1):
            for _ in range(times):
                with connect(server.address) as raw:
                    raw.sendall(content)
                    assert read_to_the_end(raw).startswith(f"HTTP/1.1 {code} ".encode())
        with connect(server.address) as silent:
            assert read_to_the_end(silent) == b""
        told, _ = server.service.metrics.expose("")
        counted = [line for line in told.decode().splitlines() if line.startswith("vitruvian_requests_total{")]
        assert len(counted) == len(sent)
        for times, code in enumerate(sent, start=1):
            assert sample(told.decode(), "vitruvian_requests_total", route="none", code=code) == times
    finally:
        server.stop()


POST = b"POST /predict/image HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Transfer-Encoding: x\r\n\r\nabc",
        POST + b"Transfer-Encoding: gzip\r\n\r\nabc",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        POST + b"Content-Length: 3\r\n\r\nabcdefgh\r\n\r\n",
    ],
)
def test_a_request_that_breaks_in_its_body_is_answered_once(address: str, sent: bytes) -> None:
    with connect(address) as raw:
        raw.sendall(sent)
        answer = read_to_the_end(raw)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"urn:vitruvian:problem:malformed" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert httpx.get(f"{address}/v2/health/live").status_code == 200


def test_nothing_is_answered_after_a_refusal(address: str) -> None:
    with connect(address) as raw:
        raw.sendall(head(MOST_HEAD_BYTES + 1) + head(200))
        answer = read_to_the_end(raw)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-More: " + b"a" * 10_000 + b"\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-More: ", b"a" * 10_000),
        (b"GET /", b"a" * 10_000),
        (
            b"POST /predict/image HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            b"X-Trailer: " + b"a" * 10_000 + b"\r\n",
        ),
    ],
)
def test_a_head_that_never_ends_is_not_kept(address: str, start: bytes, piece: bytes) -> None:
    before = psutil.Process().memory_info().rss
    sent = 0
    with connect(address) as raw:
        try:
            raw.sendall(start)
            for _ in range(20_000):
                raw.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        else:
            pytest.fail(f"{sent} bytes of a head were taken")
    assert psutil.Process().memory_info().rss - before < 100_000_000
    assert httpx.get(f"{address}/v2/health/live").status_code == 200


def test_a_large_body_and_many_requests_on_one_connection_are_no_large_head(address: str) -> None:
    content = picture("red") + b"\0" * 500_000

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(content), 500):
            yield content[at : at + 500]

    with httpx.Client() as client:
        for _ in range(3):
            for body in (content, pieces()):
                assert client.post(f"{address}/predict/image", content=body).json()["label"] == "red"
        for _ in range(200):
            answer = client.get(f"{address}/v2/health/live", headers={"X-Some": "a" * 1000})
            assert answer.status_code == 200


def test_who_says_nothing_or_half_a_head_is_hung_up_on_and_who_asks_is_not(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    server = Server(open_bundle(store)).start()
    whole = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    try:
        with ExitStack() as stack:
            silent, half, again, crumbs, kept = (stack.enter_context(connect(server.address)) for _ in range(5))
            half.sendall(b"GET / HTTP/1.1\r\nHost")
            for raw in (again, crumbs, kept):
                raw.sendall(whole)
                assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
            again.sendall(b"GET / HT")
            crumbs.sendall(b"\r\n")
            assert read_to_the_end(silent) == b""
            for raw in (half, again, crumbs):
                answer = read_to_the_end(raw)
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert b"head-too-slow" in answer
            kept.sendall(whole)
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
    finally:
        server.stop()


def test_a_body_may_take_longer_than_a_head(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    server = Server(open_bundle(store)).start()
    content = picture("red")
    try:
        with connect(server.address) as raw, connect(server.address) as silent:
            start = f"POST /predict/image HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}"
            raw.sendall(start.encode() + b"\r\n\r\n")
            # As long as it takes until somebody who says nothing is hung up on.
            assert read_to_the_end(silent) == b""
            raw.sendall(content)
            assert read_to_the_end(raw).startswith(b"HTTP/1.1 200 ")
    finally:
        server.stop()


FEW_DESCRIPTORS = """
import logging, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
logging.basicConfig(format="%(message)s")
from vitruvian.bundle import open_bundle
from vitruvian.inference.server import serve
serve(open_bundle(sys.argv[1]), port=0, announce=lambda address: print(address, flush=True))
"""


def test_a_server_without_descriptors_says_so_once_and_answers_whom_it_has(store: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 500
    command = [sys.executable, "-c", FEW_DESCRIPTORS, str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            with httpx.Client() as client:
                assert client.get(f"{address}/health").status_code == 200
                with ExitStack() as stack:
                    for _ in range(300):
                        stack.enter_context(connect(address))
                    for _ in range(5):
                        answer = client.post(f"{address}/predict/image", content=picture("red"))
                        assert answer.json()["label"] == "red"
                    assert client.get(f"{address}/v2/health/live").status_code == 200
                with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as other:
                    assert other.get(f"{address}/v2/health/live").status_code == 200
            server.terminate()
            _, said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert said.count("connections are refused") == 1
    assert "ulimit -n" in said
