"""`vitruvian serve` with a challenger: real processes, from the command's line to its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient import grpc as triton_grpc

from tests.bundles import LABELS, make_bundle, picture
from tests.processes import serving
from tests.serving import sample
from tests.versions import make_other, wait_until
from vitruvian.bundle import open_bundle
from vitruvian.inference.rules import Rules
from vitruvian.inference.server import Extras, Server

PROGRAM = """
import sys, threading
from vitruvian.bundle import open_bundle
from vitruvian.inference import server
from vitruvian.inference.predictor import Predictor
from vitruvian.inference.rules import Rules
from vitruvian.inference.service import Settings

where, champion, challenger = sys.argv[1:]
hang = threading.Event()

class Hanging(Predictor):
    def warm_up(self):
        self.wait("warm_up")
        super().warm_up()

    def outputs(self, *arguments, **more):
        if hang.is_set():
            self.wait("outputs")
        return super().outputs(*arguments, **more)

    def wait(self, here):
        if where == here:
            threading.Event().wait()

def load(*arguments):
    if where == "load":
        threading.Event().wait()
    return Hanging.open(open_bundle(challenger))

server.open_challenger = load
extras = server.Extras(challenger=challenger, rules=Rules(shadow=100))
made = server.Server(open_bundle(champion), settings=Settings(drain_seconds=1), extras=extras)
made.run(lambda: (print(made.address, flush=True), threading.Timer(1.0, hang.set).start()))
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    make_bundle(one)
    make_other(two)
    return one / "store", two / "store"


def told(address: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{address}/tracks").json()
    return found


def ask(address: str, colour: str = "red", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{address}/predict/image", content=picture(colour), headers=named)


def test_the_command_serves_two_versions(stores: tuple[Path, Path]) -> None:
    one, two = stores
    flags = ("--challenger", str(two), "--share", "50", "--shadow", "100", "--sticky-cookie")
    with serving(one, *flags) as (server, address):
        wait_until(lambda: told(address)["tracks"]["canary"]["state"] == "ready", "there is no challenger")
        answers = [ask(address) for _ in range(40)]
        assert {answer.headers["x-vitruvian-version"] for answer in answers} == {"v1", "v2"}
        assert all("vitruvian-track" in answer.cookies for answer in answers)
        champions = sum(answer.json()["track"] == "stable" for answer in answers)
        wait_until(lambda: told(address)["agreement"]["samples"] == champions, "not all were compared")
        assert httpx.post(f"{address}/compare", content=picture("red")).json()["canary"]["version"] == "v2"
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_over_grpc_the_version_says_who_answers_else_metadata_and_share_do(stores: tuple[Path, Path]) -> None:
    extras = Extras(grpc_port=0, challenger=str(stores[1]), rules=Rules(share=100))
    server = Server(open_bundle(stores[0]), extras=extras).start()
    try:
        wait_until(lambda: told(server.address)["tracks"]["canary"]["state"] == "ready", "there is no challenger")
        assert server.grpc_address is not None
        client = triton_grpc.InferenceServerClient(server.grpc_address)
        sent = triton_grpc.InferInput("image", [1], "BYTES")
        sent.set_data_from_numpy(np.array([picture("red")], dtype=object))
        for version, headers, expected in (
            ("v1", None, "v1"),
            ("v2", {"x-vitruvian-track": "stable"}, "v2"),
            ("", {"x-vitruvian-track": "stable"}, "v1"),
            ("", {"x-vitruvian-track": "canary"}, "v2"),
            ("", None, "v2"),
        ):
            answer = client.infer("yoga", [sent], model_version=version, headers=headers).get_response()
            assert answer.model_version == expected
        with pytest.raises(triton_grpc.InferenceServerException, match="'v1' and 'v2'"):
            client.infer("yoga", [sent], model_version="v3")
        assert list(client.get_model_metadata("yoga").versions) == ["v1", "v2"]
        assert [model.version for model in client.get_model_repository_index().models] == ["v1", "v2"]
        assert client.is_model_ready("yoga", "v2")
        text = httpx.get(f"{server.address}/metrics").text
        route = "/inference.GRPCInferenceService/ModelInfer"
        assert sample(text, "vitruvian_requests_total", route=route, code="200", track="stable") == 2
        assert sample(text, "vitruvian_requests_total", route=route, code="200", track="canary") == 3
        assert sample(text, "vitruvian_requests_in_flight", track="canary") == 0
        assert sample(text, "vitruvian_requests_in_flight", track="stable") == 1
    finally:
        server.stop()


@pytest.mark.parametrize("fault", ["empty", "golden"])
def test_a_challenger_that_cant_be_served_is_one_line_and_the_champion_serves(
    stores: tuple[Path, Path], tmp_path: Path, fault: str
) -> None:
    if fault == "golden":
        make_other(tmp_path, golden_shift=0.5)
    else:
        (tmp_path / "store").mkdir()
    with serving(stores[0], "--challenger", str(tmp_path / "store"), "--share", "50") as (server, address):
        wait_until(lambda: told(address)["tracks"]["canary"]["state"] == "failed", "it didn't fail")
        answers = [ask(address) for _ in range(20)]
        assert {answer.json()["version"] for answer in answers} == {"v1"}
        assert "not-ready" in {answer.headers.get("x-vitruvian-fallback") for answer in answers}
        assert "vitruvian_challenger_ready" in httpx.get(f"{address}/metrics").text
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert server.stdout is not None
        line, *_ = server.stdout.read().splitlines()
        assert line.startswith("the challenger isn't served, the champion is: ")


def test_what_several_processes_compare_adds_up(stores: tuple[Path, Path]) -> None:
    one, two = stores
    with serving(one, "--processes", "2", "--challenger", str(two), "--shadow", "100") as (server, address):

        def ready() -> bool:
            return 'vitruvian_challenger_ready{classifier="yoga",track="stable",version="v1"} 1.0' in (
                httpx.get(f"{address}/metrics").text
            )

        wait_until(ready, "there is no challenger in one of them")
        expected: Counter[str] = Counter()
        for _ in range(10):
            for colour in (*LABELS, "teal", "orange", "olive"):
                labels = [
                    ask(address, colour, x_vitruvian_track=track).json()["label"] for track in ("stable", "canary")
                ]
                expected["same" if labels[0] == labels[1] else "different"] += 1
        assert min(expected["same"], expected["different"]) > 0
        wait_until(lambda: told(address)["agreement"]["samples"] == 60, "not all were compared")
        for _ in range(10):
            found = told(address)["agreement"]
            assert {name: found[name] for name in expected} == expected
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.mark.parametrize("where", ["load", "warm_up", "outputs"])
def test_a_challenger_that_hangs_delays_neither_the_champions_start_nor_its_answers_nor_its_end(
    stores: tuple[Path, Path], where: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, where, *map(str, stores)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            address = server.stdout.readline().strip()
            states = {"load": "loading", "warm_up": "starting", "outputs": "stalled"}
            deadline = time.monotonic() + 30
            while told(address)["tracks"]["canary"]["state"] != states[where]:
                assert ask(address).json()["version"] == "v1"
                assert time.monotonic() < deadline
            for _ in range(10):
                assert ask(address).json()["version"] == "v1"
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
            said = [line.split(":")[0] for line in server.stderr.read().splitlines()]
            assert said == ["ends", "has ended"]
        finally:
            server.kill()
