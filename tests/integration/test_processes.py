"""Several server processes behind one port: they add up, they are replaced, and they end together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.serving import restarts, tally
from tests.bundles import make_bundle, picture
from tests.ports import free_port
from tests.processes import serving


def test_counters_equal_what_clients_got_though_processes_are_killed() -> None:
    counted = tally.count(2000)
    assert counted.killed >= 1
    assert sum(counted.clients.values()) > 1800
    assert counted.lost == 0
    assert counted.unseen <= counted.broken


def test_no_client_notices_that_processes_end_and_are_replaced() -> None:
    found = restarts.restart(4)
    assert found.done == 4
    assert found.failed == 0, found.outcomes
    assert found.outcomes[200] > 100


def test_a_killed_process_is_replaced_and_all_end_together_with_0(store: Path) -> None:
    with serving(store, "--processes", "2") as (server, address):
        first = {child.pid for child in psutil.Process(server.pid).children()}
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while len({child.pid for child in psutil.Process(server.pid).children()} - first) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(20):
            assert httpx.post(f"{address}/predict/image", content=picture("red")).json()["label"] == "red"
        children = psutil.Process(server.pid).children()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert not [child for child in children if child.is_running()]


def test_every_process_tells_when_the_model_ran_last_in_any(store: Path) -> None:
    with serving(store, "--processes", "2") as (_, address):

        def told() -> set[int]:
            answers = [httpx.get(f"{address}/v2/models/yoga/stats") for _ in range(10)]
            return {answer.json()["model_stats"][0]["last_inference"] for answer in answers}

        assert told() == {0}
        began = int(time.time() * 1000)
        httpx.post(f"{address}/predict/image", content=picture("red"))
        (last,) = told()
        assert began <= last <= time.time() * 1000


def test_a_process_that_hangs_is_replaced(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import vitruvian.inference.processes as p; p._SILENT_SECONDS = 1.5;"
        "from vitruvian.cli import main; import sys; sys.argv = ['vitruvian', *sys.argv[1:]]; main()"
    )
    port = free_port()
    command = [sys.executable, "-c", program, "serve", str(store), "--port", str(port), "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            assert any("is ready at" in line for line in iter(server.stdout.readline, ""))
            stopped = psutil.Process(server.pid).children()[0]
            stopped.suspend()
            said = server.stdout.readline()
            assert re.search(r"process \d hasn't moved for \d s; it is killed", said)
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()


def test_processes_that_cant_start_end_the_whole_with_their_line(tmp_path: Path) -> None:
    make_bundle(tmp_path, golden_shift=0.5)
    command = [sys.executable, "-c", "from vitruvian.cli import main; main()", "serve", str(tmp_path / "store")]
    done = subprocess.run(
        [*command, "--port", "0", "--processes", "2"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "golden example" in done.stderr
    assert "Traceback" not in done.stderr


def test_health_and_metrics_may_have_a_port_of_their_own(store: Path) -> None:
    admin = free_port()
    with serving(store, "--admin-port", str(admin)) as (_, address):
        httpx.post(f"{address}/predict/image", content=picture("red"))
        assert httpx.get(f"{address}/metrics").status_code == 404
        shown = httpx.get(f"http://127.0.0.1:{admin}/metrics").text
        assert re.search(r'vitruvian_requests_total{.*code="200".*route="/predict/image".*} 1.0', shown)
        assert httpx.get(f"http://127.0.0.1:{admin}/v2/health/ready").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{admin}/predict").status_code == 404


@pytest.mark.parametrize("flags", [(), ("--processes", "2")])
def test_a_server_that_is_to_end_is_not_ready_but_answers_while_proxies_learn_it(
    store: Path, flags: tuple[str, ...]
) -> None:
    with serving(store, "--linger", "2", *flags) as (server, address), httpx.Client() as client:
        assert client.get(f"{address}/v2/health/ready").status_code == 200
        server.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while (ready := client.get(f"{address}/v2/health/ready")).status_code == 200:
            assert time.monotonic() - began < 1.5
        assert ready.status_code == 503
        assert ready.headers["connection"] == "close"
        answered = 0
        while time.monotonic() - began < 1.5:
            answer = client.post(f"{address}/predict/image", content=picture("red"))
            assert answer.json()["label"] == "red"
            answered += 1
        assert answered > 5
        assert client.get(f"{address}/v2/health/live").status_code == 200
        assert server.wait(30) == 0
