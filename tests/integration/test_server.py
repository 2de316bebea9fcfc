"""A real server in a process of its own, on a real port."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.bundles import LABELS, make_bundle, picture
from vitruvian.bundle import open_bundle
from vitruvian.errors import BundleError, VitruvianError
from vitruvian.inference.probe import probe
from vitruvian.inference.server import Extras, Server, listen
from vitruvian.inference.startup import STAGES

PROGRAM = """
import sys
from vitruvian.bundle import open_bundle
from vitruvian.errors import VitruvianError
from vitruvian.inference.server import serve
try:
    serve(open_bundle(sys.argv[1]), port=int(sys.argv[2]), announce=lambda address: print(address, flush=True))
except VitruvianError as e:
    sys.exit(str(e))
"""


@contextmanager
def process(store: Path, port: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, str(store), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def address_of(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:")
    return address


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    with process(store) as server:
        yield address_of(server)


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=30)


def in_flight(address: str) -> float:
    """Return the requests that aren't answered yet, without the one that asks."""
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith("vitruvian_requests_in_flight{")]
    return float(value) - 1


def wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_the_announced_address_answers(address: str) -> None:
    assert httpx.get(f"{address}/v2/health/ready").json() == {"ready": True}
    response = httpx.post(f"{address}/predict/image", files={"file": ("a.png", picture("green"))})
    assert response.json()["label"] == "green"
    assert "server" not in response.headers


def test_many_clients_at_once_get_their_own_answers(address: str) -> None:
    wanted = [LABELS[at % 3] for at in range(60)]
    contents = {label: picture(label) for label in LABELS}

    def ask(label: str) -> str:
        with httpx.Client() as client:
            return str(client.post(f"{address}/predict/image", content=contents[label]).json()["label"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, wanted)) == wanted


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_sent(address: str) -> None:
    with connect(address) as raw:
        raw.sendall(
            b"POST /predict/image HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert raw.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict/image HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict/image HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /predict/image HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_harms_nobody(address: str, junk: bytes) -> None:
    with connect(address) as raw:
        raw.sendall(junk)
        raw.shutdown(socket.SHUT_WR)
        answer = raw.recv(1000)
    assert b" 5" not in answer.split(b"\r\n")[0]
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_client_that_leaves_harms_nobody(address: str) -> None:
    head = b"POST /predict/image HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf"
    for _ in range(5):
        with connect(address) as raw:
            raw.sendall(head)
            wait_for(lambda: in_flight(address) == 1, "the request wasn't taken")
        wait_for(lambda: in_flight(address) == 0, "the request wasn't given up")
    assert httpx.post(f"{address}/predict/image", content=picture("blue")).json()["label"] == "blue"
    assert 'code="499"' in httpx.get(f"{address}/metrics").text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_was_accepted_finish_and_ends_with_0(store: Path, signum: int) -> None:
    content = picture("red")
    with process(store) as server:
        address = address_of(server)
        with connect(address) as raw:
            head = f"POST /predict/image HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            raw.sendall(head.encode() + content[:100])
            wait_for(lambda: in_flight(address) == 1, "the request wasn't taken")
            server.send_signal(signum)

            def refuses() -> bool:
                try:
                    return httpx.get(f"{address}/v2/health/ready").status_code == 503
                except httpx.TransportError:
                    return True

            wait_for(refuses, "it is still ready")
            raw.sendall(content[100:])
            answer = b""
            while chunk := raw.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["label"] == "red"
        assert server.wait(30) == 0
        assert server.stderr is not None
        assert [line.partition(":")[0].strip() for line in server.stderr] == ["ends", "has ended"]


@pytest.mark.parametrize(
    ("extras", "flags"),
    [
        (Extras(admin_port=9876), "--port and --admin-port"),
        (Extras(grpc_port=9876), "--port and --grpc-port"),
        (Extras(grpc_port=9877, admin_port=9877), "--grpc-port and --admin-port"),
    ],
)
def test_one_port_for_two_things_is_refused_before_anything_is_opened(store: Path, extras: Extras, flags: str) -> None:
    with pytest.raises(VitruvianError, match=f"{flags} are the same port; give each a port of its own"):
        Server(open_bundle(store), port=9876, extras=extras)


def test_a_port_in_use_is_one_clear_line(store: Path, address: str) -> None:
    port = urlsplit(address).port
    assert port is not None
    with process(store, port) as server:
        out, err = server.communicate(timeout=60)
    assert server.returncode == 1
    assert (out, len(err.splitlines())) == ("", 1)
    assert f"127.0.0.1:{port}: the port is in use" in err


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("192.0.2.1", 0), ("127.0.0.1", 70000)])
def test_an_address_that_is_not_ours_is_refused(host: str, port: int) -> None:
    with pytest.raises(VitruvianError, match="is not an address of this machine"):
        listen(host, port).close()


def test_a_wrong_golden_answer_ends_the_server(tmp_path: Path) -> None:
    make_bundle(tmp_path, golden_shift=0.1)
    with process(tmp_path / "store") as server:
        out, err = server.communicate(timeout=60)
    assert server.returncode == 1
    assert out == ""
    assert "golden.png" in err
    with pytest.raises(BundleError, match="golden"):
        Server(open_bundle(tmp_path / "store")).start()


def test_a_server_in_a_thread_starts_and_stops_again_and_again(store: Path) -> None:
    port = 0
    for _ in range(3):
        server = Server(open_bundle(store), port=port).start()
        port = urlsplit(server.address).port or 0
        assert httpx.get(f"{server.address}/health").status_code == 200
        server.stop()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.address}/health")


def test_ready_may_ask_the_server_and_its_error_ends_it(store: Path) -> None:
    server = Server(open_bundle(store))
    seen: list[int] = []

    def ready() -> None:
        with urllib.request.urlopen(f"{server.address}/health", timeout=30) as response:
            seen.append(response.status)
        raise VitruvianError("enough")

    with pytest.raises(VitruvianError, match="enough"):
        server.run(ready)
    assert seen == [200]


def test_stop_ends_a_server_that_runs_elsewhere(store: Path) -> None:
    server = Server(open_bundle(store))
    asked = threading.Event()
    running = threading.Thread(target=server.run, args=(asked.set,))
    running.start()
    assert asked.wait(30)
    server.stop()
    running.join(30)
    assert not running.is_alive()


def test_a_probe_gets_one_prediction_or_says_what_is_wrong(address: str) -> None:
    answer = probe(address)
    assert answer.label in LABELS
    assert 0 < answer.confidence <= 1
    with pytest.raises(VitruvianError, match=r"^http://127.0.0.1:9/: doesn't answer .*; check the address"):
        probe("http://127.0.0.1:9")
    with pytest.raises(VitruvianError, match="answered 404"):
        probe(f"{address}/elsewhere")


def test_a_probe_waits_for_a_server_that_starts_later(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(probe, f"http://127.0.0.1:{port}", wait=60)
        time.sleep(0.5)
        with process(store, port):
            assert asked.result().label in LABELS


def test_a_server_tells_how_long_its_start_took(address: str) -> None:
    stages = {
        line.partition('stage="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
        for line in httpx.get(f"{address}/metrics").text.splitlines()
        if line.startswith("vitruvian_startup_seconds{")
    }
    assert set(stages) == set(STAGES)
    assert stages["start"] > 0
    assert stages["load"] > 0


def test_a_bundle_is_copied_whole_and_checked(store: Path, tmp_path: Path) -> None:
    copied = open_bundle(store, into=tmp_path / "models")
    assert copied.folder == tmp_path / "models"
    again = open_bundle(tmp_path / "models")
    assert (again.digest, again.named("other").info.name) == (copied.digest, "other")
