"""What training loses by faults, drawn at random, and whether it still ends with the right bits.

    python -m benchmarks.faults [--faults 200] [--seed 0]

Runs of two workers (gloo, CPU) that checkpoint every few steps to an S3 server are struck by one fault after the other;
whenever the workers end before the training does, the same run is begun again, as Ray or the same command would. For
each fault: where the training went on, how many steps were done again, and whether that is from the newest whole
checkpoint there was. Each run must end with the bits of one that nothing struck, and nothing may be committed by an
attempt after a later one has begun.

Faults: one worker or all of them killed; all killed in the middle of an upload; the server answers 500 for a while, or
late, or with half of what was asked for, or drops a connection in the middle of an upload; the newest checkpoint is
deleted while nobody trains; all workers freeze, a new attempt takes over, and they wake up.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook
from werkzeug.serving import make_server

from tests.stores import BUCKET, S3Server
from tests.training_runs import equal, killed_after, last_checkpoint, make_job, start_ranks
from vitruvian.store import open_store
from vitruvian.training.checkpoints import read_state
from vitruvian.training.job import Job
from vitruvian.training.loop import train

WORLD = 2
EVERY = 4
EPOCHS = 4
STEPS = 10
BATCH = 8
KINDS = ("worker", "machine", "upload", "500", "slow", "half", "dropped", "deleted", "stale")
# As long a process has to end by itself after others were killed, before it is killed as well.
_SECONDS_TO_END = 20
_SECONDS_TO_RUN = 300


@dataclass
class Server:
    """An S3 server that fails when it is told to, and notes which attempt commits when."""

    app: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]] = field(
        default_factory=lambda: DomainDispatcherApplication(create_backend_app)
    )
    mode: str | None = None
    left: int = 0
    """Requests to go that the mode holds for."""
    struck: Callable[[], None] = lambda: None
    """Called in the middle of an upload in mode `upload`."""
    commits: list[int] = field(default_factory=list)
    """The attempts that wrote `state.json`, in order."""
    faulty: int = 0
    _one: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, mode: str, requests: int) -> None:
        """Let the next requests fail in one way."""
        with self._one:
            self.mode, self.left = mode, requests

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        size = int(environ.get("CONTENT_LENGTH") or 0)
        mode = self._mode(method, path)
        if mode in ("upload", "dropped"):
            environ["wsgi.input"].read(size // 2)
            if mode == "upload":
                self.struck()
            raise ConnectionResetError
        if mode == "500":
            environ["wsgi.input"].read(size)
            start("500 Internal Server Error", [])
            return [b""]
        if mode == "slow":
            time.sleep(0.5)
        answer: list[Any] = []
        # moto checks a condition and writes in two steps, which a real server does in one.
        with self._one if method in ("PUT", "POST") else contextlib.nullcontext():
            content = environ["wsgi.input"].read(size) if path.endswith("/state.json") and method == "PUT" else None
            if content is not None:
                environ["wsgi.input"] = io.BytesIO(content)
            body = b"".join(self.app(environ, lambda *head: answer.extend(head)))  # type: ignore[arg-type]
            if content is not None and answer[0].startswith("200"):
                self.commits.append(json.loads(content)["attempt"])
        start(*answer[:2])
        return [body[: len(body) // 2] if mode == "half" else body]

    def _mode(self, method: str, path: str) -> str | None:
        with self._one:
            shard = method == "PUT" and path.endswith(".distcp")
            wanted = {"upload": shard, "dropped": shard, "half": method == "GET" and path.endswith(".distcp")}
            if self.mode is None or not wanted.get(self.mode, True):
                return None
            mode = self.mode
            self.left -= 1
            self.faulty += 1
            if self.left <= 0:
                self.mode = None
            return mode

    def stale_commits(self) -> int:
        """Return how many commits came from an attempt after a later one had begun."""
        return sum(later < former for former, later in zip(self.commits, self.commits[1:], strict=False))


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run the server, and let all that this process starts use it."""
    server = Server()
    listening = make_server("127.0.0.1", 0, server, threaded=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    settings = S3Server(f"http://127.0.0.1:{listening.server_port}").settings()
    former = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        boto3.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)
        server.commits.clear()
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def work(rank: int, world: int, job: Job, done: Any, began: Any, kill_after: list[int | None]) -> None:
    """Train as one of the workers; `done` counts the steps, `began` tells where it went on; it may be killed."""
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        done.value = steps

    def emit(event: dict[str, Any]) -> None:
        if event["kind"] == "start":
            # Where state is restored, an optimizer takes an empty step.
            if rank == 0:
                register_optimizer_step_post_hook(count)
                began.value = event["epoch"] * event["steps"] + event["step"]
            if (steps_to_live := kill_after[rank]) is not None:
                killed_after(steps_to_live)

    train(job, rank, world, emit)


class Attempt:
    """One group of workers."""

    def __init__(self, job: Job, kill: Callable[[int], int | None] = lambda rank: None) -> None:
        context = multiprocessing.get_context("forkserver")
        self.done, self.began = context.Value("i", 0), context.Value("i", -1)
        self.ranks = start_ranks(work, WORLD, job, self.done, self.began, [kill(r) for r in range(WORLD)])

    def reached(self, steps: int) -> bool:
        """Wait until so many steps are done; False where the workers ended before."""
        while self.done.value < steps:
            if self.over():
                return False
            time.sleep(0.002)
        return True

    def over(self) -> bool:
        return all(rank.exitcode is not None for rank in self.ranks)

    def signal(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            if rank.is_alive() and rank.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank.pid, number)

    def wait(self) -> bool:
        """Wait until all have ended; once one was killed or has failed, the others soon are, too. True: all is done."""
        since = time.monotonic()
        failed: float | None = None
        while not self.over():
            now = time.monotonic()
            if failed is None and any(rank.exitcode for rank in self.ranks):
                failed = now
            if (failed and now - failed > _SECONDS_TO_END) or now - since > _SECONDS_TO_RUN:
                self.signal(signal.SIGKILL)
            time.sleep(0.01)
        return all(rank.exitcode == 0 for rank in self.ranks)


@dataclass(frozen=True)
class Struck:
    """What one fault did."""

    kind: str
    went_on: bool
    """From the newest whole checkpoint that there was, or without a break."""
    again: int
    """Steps that were done once more."""


def strike(kind: str, job: Job, server: Server, drawn: random.Random) -> tuple[Struck | None, bool]:
    """Train until one fault has struck and the training has gone on or ended; also tell whether it is complete."""
    after = drawn.randint(2, 3 * EVERY)
    store = open_store(job.checkpoints)
    if kind in ("worker", "machine"):
        victim = drawn.randrange(WORLD)
        attempt = Attempt(job, lambda rank: after if kind == "machine" or rank == victim else None)
        if attempt.wait():
            return None, True
    elif kind == "upload":
        attempt = Attempt(job)
        server.struck = lambda: attempt.signal(signal.SIGKILL)
        server.fail("upload", 1)
        if attempt.wait():
            server.mode = None
            return None, True
    elif kind == "deleted":
        attempt = Attempt(job, lambda rank: after)
        if attempt.wait():
            return None, True
        names = read_state(store).checkpoints
        if len(names) > 1:
            for entry in list(store.list(f"{names[-1]}/")):
                if drawn.random() < 0.7 or entry.key.endswith("manifest.json"):
                    store.delete(entry.key)
    elif kind == "half":
        attempt = Attempt(job, lambda rank: after)
        if attempt.wait():
            return None, True
        server.fail("half", drawn.randint(1, 4))
    elif kind == "stale":
        attempt = Attempt(job)
        if not attempt.reached(after):
            return None, attempt.wait()
        attempt.signal(signal.SIGSTOP)
        return _overtaken(attempt, job, after)
    else:
        attempt = Attempt(job)
        if not attempt.reached(after):
            return None, attempt.wait()
        server.fail(kind, 1 if kind == "dropped" else drawn.randint(3, 25))
        complete = attempt.wait()
        # It answers again before anybody asks where the training stands.
        server.mode = None
        if complete:
            return Struck(kind, True, 0), True
    return _gone_on(kind, attempt, job)


def _gone_on(kind: str, former: Attempt, job: Job) -> tuple[Struck, bool]:
    """Begin again and see where: the run's next fault strikes a later attempt."""
    newest = _newest_whole(job)
    reached = max(0, former.began.value) + former.done.value
    attempt = Attempt(job)
    went_on = attempt.reached(1)
    # It has shown where it goes on; what it does until the next fault is of no interest.
    began = attempt.began.value
    attempt.signal(signal.SIGKILL)
    attempt.wait()
    return Struck(kind, went_on and began == newest, max(0, reached - began)), False


def _overtaken(frozen: Attempt, job: Job, after: int) -> tuple[Struck, bool]:
    newest = _newest_whole(job)
    reached = max(0, frozen.began.value) + after
    later = Attempt(job)
    went_on = later.reached(1)
    began = later.began.value
    frozen.signal(signal.SIGCONT)
    complete = later.wait()
    woke = frozen.wait()
    # It may have ended well only where it had nothing left to commit.
    return Struck("stale", went_on and began == newest and not woke and complete, max(0, reached - began)), complete


def _newest_whole(job: Job) -> int:
    """Return the step of the newest checkpoint whose files are all there."""
    # What was sent before its sender ended may still be on its way.
    time.sleep(0.3)
    store = open_store(job.checkpoints)
    for name in reversed(read_state(store).checkpoints):
        found = {entry.key.removeprefix(f"{name}/") for entry in store.list(f"{name}/")}
        if "manifest.json" in found:
            manifest = json.loads(store.get(f"{name}/manifest.json"))
            if set(manifest["files"]) <= found:
                position = manifest["position"]
                return int(position["epoch"]) * STEPS + int(position["step"])
    return 0


def job_of(root: Path, checkpoints: str) -> Job:
    """Return the job of every run, with its own address of checkpoints."""
    job = make_job(
        root,
        count=round(STEPS * BATCH / 0.7),
        epochs=EPOCHS,
        batchSize=BATCH,
        strategy="ddp",
        workers=WORLD,
        checkpoints={"everySteps": EVERY, "keep": 3},
    )
    return replace(job, checkpoints=checkpoints)


def runs(faults: int, seed: int, root: Path, tell: Callable[[str], None]) -> tuple[list[Struck], int, int, int]:
    """Return what each fault did, the number of runs, how many of them ended with the right bits, and stale commits."""
    drawn = random.Random(seed)
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    with serving() as server:
        whole = job_of(root, f"s3://{BUCKET}/whole")
        assert Attempt(whole).wait(), "the run that nothing strikes ended too early"
        wanted = last_checkpoint(whole)
        struck: list[Struck] = []
        queue: list[str] = []
        count = right = stale = 0
        while len(struck) < faults:
            count += 1
            server.commits.clear()
            job = job_of(root, f"s3://{BUCKET}/struck-{count}")
            complete = False
            while not complete and len(struck) < faults:
                queue = queue or drawn.sample(KINDS, len(KINDS))
                fault, complete = strike(queue[-1], job, server, drawn)
                if fault is not None:
                    queue.pop()
                    struck.append(fault)
                    tell(f"{len(struck)} {fault}")
            server.mode = None
            while not complete:
                complete = Attempt(job).wait()
            right += equal(wanted, last_checkpoint(job))
            stale += server.stale_commits()
            tell(f"run {count}: equal {right} of {count}; stale commits {stale}")
    return struck, count, right, stale


def main() -> None:
    """Print a table of all kinds of faults."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="what decides which fault strikes when")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitruvian-faults-") as name:
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr)  # noqa: E731
        struck, count, right, stale = runs(asked.faults, asked.seed, Path(name), tell)
    of_kind: dict[str, list[Struck]] = defaultdict(list)
    for fault in struck:
        of_kind[fault.kind].append(fault)
    title = f"{len(struck)} faults in {count} runs; a checkpoint every {EVERY} steps"
    table = Table("fault", "struck", "went on", "steps again: median", "most", title=title)
    for kind, those in of_kind.items():
        again = [fault.again for fault in those]
        went_on = Counter(fault.went_on for fault in those)[True]
        table.add_row(kind, *map(str, (len(those), went_on, statistics.median(again), max(again))))
    Console().print(table)
    print(f"runs that ended with the bits of the undisturbed one: {right} of {count}; stale commits: {stale}")
    sys.exit(not (right == count and stale == 0 and all(fault.went_on for fault in struck)))


if __name__ == "__main__":
    main()
