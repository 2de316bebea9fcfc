"""When training that is begun again and again is given up, and what is told of what was lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ray.exceptions import OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState, RunningState

from tests.ports import free_port
from vitruvian.errors import TrainingError
from vitruvian.training.job import Event
from vitruvian.training.launch import Progress
from vitruvian.training.losses import TellsOfLosses, why
from vitruvian.training.ray_cluster import start_ray

FULL = OutOfMemoryError(
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: dc2f) was "
    "22.9GB used / 23.5GB limit (0.97)\nOOM kill reason: …\nTop 10 memory users: …\nRefer to the documentation"
)


def start(epoch: int, step: int) -> Event:
    return {"kind": "start", "epoch": epoch, "step": step}


def lost(reason: str, memory: bool = False) -> Event:
    return {"kind": "lost", "why": reason, "memory": memory}


def test_machines_may_be_lost_for_ever_but_not_in_place() -> None:
    progress = Progress()
    for step in range(100):
        progress.take(lost("a node went"))
        progress.take(start(0, step))
    for _ in range(3):
        progress.take(start(0, 99))
    progress.take(lost("its node went"))
    with pytest.raises(TrainingError, match="begun 5 times at epoch 1, step 99, and got no further: its node went"):
        progress.take(start(0, 99))


def test_workers_that_never_begin_are_given_up_with_their_reason() -> None:
    progress = Progress()
    progress.take(start(0, 0))
    for _ in range(4):
        progress.take(lost(why(FULL).text, why(FULL).memory))
    with pytest.raises(TrainingError, match=r"lost 5 times before training began: .* was full.*; use fewer workers"):
        progress.take(lost(why(FULL).text, why(FULL).memory))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FULL, "a machine's memory was full (22.9GB of 23.5GB), and Ray ended what it could"),
        (WorkerGroupError(f"Rank 0:\n{FULL}", {0: FULL}), "a machine's memory was full (22.9GB of 23.5GB), and Ray"),
        (RuntimeError("The actor died because its node has died. Node Id: 5ca1"), "a machine is gone"),
        (RuntimeError("Worker exit detail: … connection error code 2. End of file. Some"), "a process was killed, by"),
        (RuntimeError("first\n\n  the last line \n"), "the last line"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), "x" * 300 + "…"),
    ],
)
def test_why_workers_were_lost_is_one_line(error: BaseException, told: str) -> None:
    assert why(error).text.startswith(told) and "\n" not in why(error).text


def test_what_ray_begins_again_is_told_and_waiting_for_machines_is_not() -> None:
    events: list[Event] = []
    tells = TellsOfLosses(events.append)
    running = RunningState()
    tells.after_controller_state_update(running, RestartingState(WorkerGroupError("a worker died", {})))
    tells.after_controller_state_update(running, ReschedulingState(ControllerError(ValueError("no port is free"))))
    tells.after_controller_state_update(running, ReschedulingState(ControllerError(WorkerGroupStartupTimeoutError(2))))
    tells.after_controller_state_update(running, running)
    assert events == [lost("a worker died"), lost("no port is free")]


def test_the_driver_and_the_controller_need_no_torch() -> None:
    modules = ("launch", "losses", "ray_cluster", "rendezvous", "resize", "trainer")
    wanted = ", ".join(f"vitruvian.training.{name}" for name in modules)
    asked = f"import sys, {wanted}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], check=True)


def served(answer: bytes) -> Iterator[str]:
    """Answer whoever connects with some bytes, and then say nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\0\0\0"])
def test_what_is_no_cluster_is_told_at_once(answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextmanager(served)(answer) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(TrainingError, match=f"RAY_ADDRESS={address}: there is no Ray cluster; start one"):
            start_ray(1, tmp_path / "log")


def test_where_nobody_listens_there_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(TrainingError, match="there is no Ray cluster"):
        start_ray(1, tmp_path / "log")
