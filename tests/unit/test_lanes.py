"""Lanes: what waits is run together where that pays, and what nobody needs any more isn't run at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.bundles import LABELS, SIZE, make_bundle
from vitruvian.bundle import Bundle
from vitruvian.errors import DataError
from vitruvian.inference.admission import Costs, Ticket, check_wait
from vitruvian.inference.lanes import USUAL, Input, Lanes, Wanted
from vitruvian.inference.predictor import Head, Predictor
from vitruvian.inference.problems import Problem


class Recorded:
    """Answers with the first pixel of each channel, notes the size of each batch, and waits to be let."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.sizes.append(len(batch))
        self.begun.release()
        assert self.go.wait(30)
        return batch[:, :, 0, 0]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("lanes"))


@pytest.fixture
def engine() -> Iterator[Recorded]:
    engine = Recorded()
    yield engine
    engine.go.set()


def pixels(channel: int) -> NDArray[np.float32]:
    array = np.zeros((3, SIZE, SIZE), np.float32)
    array[channel] = 5
    return array


def tensor(channel: int, wanted: Wanted = USUAL) -> Input:
    return Input(lambda: pixels(channel), channel, wanted, tensor=True)


class Answers:
    """Waits for the answers of what is put in."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self._answers: list[Any] = []

    def __call__(self, answers: Sequence[Any]) -> None:
        self._answers = list(answers)
        self._there.set()

    def __iter__(self) -> Iterator[Any]:
        assert self._there.wait(30)
        return iter(self._answers)


def put(lanes: Lanes, *inputs: Input, ticket: Ticket | None = None) -> Answers:
    answers = Answers()
    lanes.put(inputs, ticket or Ticket(60), answers)
    return answers


def labels(answers: Answers) -> list[str]:
    return [answer.label for answer in answers]


def test_each_input_gets_its_own_answer_in_order(bundle: Bundle, engine: Recorded) -> None:
    engine.go.set()
    lanes = Lanes(Predictor(bundle, engine), 3)
    wanted = [at % 3 for at in range(40)]
    together = put(lanes, *map(tensor, wanted))
    alone = [put(lanes, tensor(channel)) for channel in wanted]
    assert labels(together) == [LABELS[channel] for channel in wanted]
    assert [labels(one) for one in alone] == [[LABELS[channel]] for channel in wanted]


def test_what_waits_is_run_together_once_that_was_seen_to_pay(bundle: Bundle, engine: Recorded) -> None:
    engine.go.set()
    lanes = Lanes(Predictor(bundle, Constant(engine, 0.02)), 1)
    list(put(lanes, *[tensor(0)] * 200))
    assert max(engine.sizes) == 32
    assert sum(engine.sizes) == 200


def test_what_doesnt_pay_is_run_one_by_one(bundle: Bundle, engine: Recorded) -> None:
    engine.go.set()
    lanes = Lanes(Predictor(bundle, Proportional(engine, 0.02)), 1)
    list(put(lanes, *[tensor(0)] * 60))
    # Twice as many at once was tried, and no more.
    assert max(engine.sizes) <= 4
    assert engine.sizes.count(1) > 40


class Constant:
    """A run takes the same time whatever its size."""

    def __init__(self, inner: Recorded, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        return self.inner.run(batch)


class Proportional(Constant):
    """Each input takes the same time."""

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self.seconds * len(batch) * (1 if len(batch) == 1 else 1.5))
        return self.inner.run(batch)


def test_lanes_share_what_waits(bundle: Bundle, engine: Recorded) -> None:
    lanes = Lanes(Predictor(bundle, engine), 2)
    first, second = put(lanes, tensor(0)), put(lanes, tensor(1))
    assert engine.begun.acquire(timeout=30) and engine.begun.acquire(timeout=30)
    engine.go.set()
    assert labels(first) + labels(second) == ["red", "green"]
    assert engine.sizes == [1, 1]


@pytest.mark.parametrize("bad", [DataError("is bad"), MemoryError()])
def test_a_bad_input_harms_no_neighbour(bundle: Bundle, engine: Recorded, bad: Exception) -> None:
    engine.go.set()

    def broken() -> Any:
        if isinstance(bad, MemoryError):
            raise bad
        return bad

    lanes = Lanes(Predictor(bundle, engine), 1)
    good, wrong, fine = put(lanes, tensor(0), Input(broken, "x", tensor=True), tensor(2))
    assert (good.label, fine.label) == ("red", "blue")
    assert wrong is bad


def test_a_model_that_fails_fails_its_batch_and_nothing_after_it(bundle: Bundle, engine: Recorded) -> None:
    engine.go.set()

    class Failing:
        def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            if batch[0, 1, 0, 0]:
                raise RuntimeError("no")
            return engine.run(batch)

    lanes = Lanes(Predictor(bundle, Failing()), 1)
    (failed,) = put(lanes, tensor(1))
    assert isinstance(failed, RuntimeError)
    assert labels(put(lanes, tensor(0))) == ["red"]


def test_inputs_may_be_told_apart_by_other_labels(bundle: Bundle, engine: Recorded) -> None:
    engine.go.set()
    lanes = Lanes(Predictor(bundle, engine, head=Head(LABELS, np.eye(3, dtype=np.float32))), 1)
    other = Head(("warm", "cold"), np.array([[1, 0, 0], [0, 0, 1]], np.float32))
    usual, told, embedding = put(lanes, tensor(2), tensor(2, Wanted(head=other)), tensor(2, Wanted(embedding=True)))
    assert (usual.label, told.label, told.labels) == ("blue", "cold", ("warm", "cold"))
    assert embedding.tolist() == [0, 0, 5]


def test_work_of_a_client_that_left_is_dropped(bundle: Bundle, engine: Recorded) -> None:
    lanes = Lanes(Predictor(bundle, engine), 1)
    first = put(lanes, tensor(0))
    assert engine.begun.acquire(timeout=30)
    gone = Ticket(60)
    left, stays = put(lanes, tensor(1), ticket=gone), put(lanes, tensor(2))
    gone.leave()
    engine.go.set()
    assert labels(first) + labels(stays) == ["red", "blue"]
    assert [type(answer) for answer in left] == [Problem]
    assert engine.sizes == [1, 1]


def test_what_cant_be_ready_in_time_is_not_begun(bundle: Bundle, engine: Recorded) -> None:
    lanes = Lanes(Predictor(bundle, engine), 1)
    first = put(lanes, tensor(0))
    assert engine.begun.acquire(timeout=30)
    late = put(lanes, tensor(1), ticket=Ticket(0.01))
    time.sleep(0.02)
    engine.go.set()
    assert labels(first) == ["red"]
    (problem,) = late
    assert isinstance(problem, Problem) and problem.kind.slug == "no-time-left"
    assert engine.sizes == [1]


def test_company_makes_no_answer_late(bundle: Bundle, engine: Recorded) -> None:
    lanes = Lanes(Predictor(bundle, engine), 1)
    first = put(lanes, tensor(0))
    assert engine.begun.acquire(timeout=30)
    lanes.expect(1.0)
    hurried = put(lanes, tensor(1), ticket=Ticket(1.5))
    rest = [put(lanes, tensor(2)) for _ in range(8)]
    engine.go.set()
    for answers in (first, hurried, *rest):
        assert labels(answers)
    assert engine.sizes[1] == 1


def test_a_job_runs_by_itself_and_its_time_counts(bundle: Bundle, engine: Recorded) -> None:
    lanes = Lanes(Predictor(bundle, engine), 1)
    first = put(lanes, tensor(0))
    assert engine.begun.acquire(timeout=30)
    answers = Answers()
    lanes.put_job(lambda: "done", Ticket(60), 7.0, answers)
    assert lanes.wait() >= 7.0
    engine.go.set()
    assert [*labels(first), *answers] == ["red", "done"]
    assert lanes.wait() < 1


def test_lanes_that_close_answer_what_was_put_in(bundle: Bundle, engine: Recorded) -> None:
    lanes = Lanes(Predictor(bundle, engine), 1)
    answers = [put(lanes, tensor(0)) for _ in range(5)]
    lanes.close()
    engine.go.set()
    assert [labels(one) for one in answers] == [["red"]] * 5


# Pure decisions


@pytest.mark.parametrize(
    ("seconds", "waiting", "expected"),
    [
        pytest.param(lambda size: 0.01 * size, 64, 1, id="a batch gains nothing"),
        pytest.param(lambda size: 0.01, 64, 32, id="a batch costs what one costs"),
        pytest.param(lambda size: 0.01, 5, 4, id="no more than wait"),
        pytest.param(lambda size: 0.01 + 0.01 * max(0, size - 4), 64, 4, id="four fit in the cache"),
    ],
)
def test_the_batch_size_is_learned(seconds: Callable[[int], float], waiting: int, expected: int) -> None:
    costs = Costs()
    for _ in range(100):
        size = costs.batch_size(waiting)
        costs.observe(size, seconds(size), seconds(size), saturated=True)
    assert costs.batch_size(waiting) == expected


def test_a_machine_that_changes_is_learned_again() -> None:
    costs = Costs()
    for _ in range(100):
        size = costs.batch_size(64)
        costs.observe(size, 0.01 * size, 0.01 * size, saturated=True)
    for _ in range(3000):
        size = costs.batch_size(64)
        costs.observe(size, 0.01, 0.01, saturated=True)
    assert costs.batch_size(64) == 32


def test_light_work_doesnt_belittle_what_full_lanes_need() -> None:
    costs = Costs()
    for _ in range(10):
        costs.observe(1, 0.04, 0.04, saturated=True)
    for _ in range(100):
        costs.observe(1, 0.02, 0.02, saturated=False)
    assert costs.each == pytest.approx(0.04)


def test_an_estimate_that_is_far_off_is_mended_by_light_work() -> None:
    costs = Costs()
    costs.observe(1, 3600, 3600, saturated=False)
    for _ in range(200):
        costs.observe(1, 0.02, 0.02, saturated=False)
    assert costs.each < 0.05


@pytest.mark.parametrize(
    ("wait", "work", "left", "slug"),
    [
        (0.0, 0.1, 1.0, None),
        (9.0, 0.1, 30.0, None),
        (11.0, 0.1, 30.0, "busy"),
        (0.9, 0.1, 1.0, "no-time-left"),
        (0.0, 2.0, 1.0, None),
        (0.1, 2.0, 1.0, "no-time-left"),
        (0.0, 0.1, -1.0, "no-time-left"),
    ],
)
def test_what_cant_be_promised_is_refused_with_when_to_come_again(
    wait: float, work: float, left: float, slug: str | None
) -> None:
    if slug is None:
        check_wait(wait, work, left, 10.0)
        return
    with pytest.raises(Problem) as raised:
        check_wait(wait, work, left, 10.0)
    assert (raised.value.kind.slug, raised.value.kind.status) == (slug, 429)
    assert int(raised.value.headers["Retry-After"]) >= 1


def test_a_refusal_shows_how_little_time_is_left() -> None:
    with pytest.raises(Problem, match=r"would take 0.0013 s, and 0.0001 s are left"):
        check_wait(0.001, 0.0003, 0.0001, 10)
    with pytest.raises(Problem, match=r"would take 3.50 s, and 1.25 s are left"):
        check_wait(1.0, 2.5, 1.25, 10)
    with pytest.raises(Problem, match=r"would take 3.50 s, and 0 s are left"):
        check_wait(1.0, 2.5, -1, 10)
