"""What a server takes on: what an input costs, how long it would wait, and whether there is time for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from vitruvian.inference.problems import BUSY, LATE, Problem, retry

LARGEST_BATCH = 32
_WEIGHT = 0.1
"""How much the latest run counts in an average, once there are some."""
_FAR_OFF = 2.0
"""An estimate this many times what is seen is wrong, not careful."""
_LEAST_WAIT = 0.02
"""Seconds; shorter waits tell nothing."""
_MOST_OFF = 4.0
_WEIGHT_OF_A_WAIT = 0.05
_GAIN = 0.97
"""A batch must take at most this share of a smaller one's seconds for each input: it makes its first input wait."""
_RUNS_UNTIL_TRIED_AGAIN = 256
_MARGIN = 0.25
"""Share of the time left that an estimate may be wrong by. Less would not answer more: a queue that is never empty
keeps the lanes busy, however short it is."""


_SHORT = 0.1
"""Seconds; of what is shorter, two digits behind the point tell too little."""


class Ticket:
    """One request's claim to an answer: until when, and whether somebody still waits for it."""

    __slots__ = ("_leave", "deadline", "gone")

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.gone = False
        self._leave: Callable[[], None] | None = None

    @property
    def left(self) -> float:
        """Seconds until the deadline; below 0 after it."""
        return self.deadline - time.monotonic()

    def limit(self, seconds: float | None) -> None:
        """Bring the deadline forward: the answer is of use for so many seconds from now at most."""
        if seconds is not None:
            self.deadline = min(self.deadline, time.monotonic() + seconds)

    def on_leave(self, call: Callable[[], None]) -> None:
        """Have something called when the client leaves."""
        self._leave = call

    def leave(self) -> None:
        """Drop what isn't begun yet: the client has left."""
        self.gone = True
        if self._leave is not None:
            self._leave()


class Costs:
    """What inputs cost, learned from every run: seconds of a lane for an input, and the batch size that is best.

    On a CPU a larger batch often gains nothing; it is taken only where it was seen to.
    """

    def __init__(self) -> None:
        self.each = 0.0
        """Seconds of one lane for one input while all lanes work and more waits."""
        self._seen = 0
        self._run_seconds: dict[int, float] = {}
        self._runs = 0

    def observe(self, size: int, run_seconds: float, total_seconds: float, *, saturated: bool) -> None:
        """Learn from a batch: seconds that the model ran, and that the lane needed for all of it."""
        before = self._run_seconds.get(size)
        self._run_seconds[size] = (
            run_seconds / size if before is None else _average(before, run_seconds / size, _WEIGHT)
        )
        each = total_seconds / size
        # A lane that works alone is faster than it will be under load.
        if saturated or not self.each or not self.each / _FAR_OFF <= each <= self.each:
            self._seen += 1
            self.each = _average(self.each, each, max(_WEIGHT, 1 / self._seen))

    def expect(self, seconds: float) -> None:
        """Take so many seconds for what an input costs, until runs tell otherwise."""
        self.each, self._seen = seconds, math.ceil(1 / _WEIGHT)

    def batch_size(self, waiting: int) -> int:
        """Return how many of the waiting inputs to run at once: a power of two."""
        self._runs += 1
        best = size = 1
        if best not in self._run_seconds:
            return best
        while (size := size * 2) <= min(waiting, LARGEST_BATCH):
            if size not in self._run_seconds:
                if size == 2 * best:
                    return size
                break
            if self._run_seconds[size] < _GAIN * self._run_seconds[best]:
                best = size
        if self._runs % _RUNS_UNTIL_TRIED_AGAIN == 0 and 2 * best <= min(waiting, LARGEST_BATCH):
            return 2 * best
        return best


class Waits:
    """How long work waits: what was foretold from costs, set right by how long work really waited."""

    def __init__(self) -> None:
        self._factor = 1.0

    def corrected(self, foretold: float) -> float:
        """Return the seconds that a wait of so many by the costs will really take."""
        return foretold * self._factor

    def observe(self, foretold: float, waited: float) -> None:
        """Learn from work whose turn came."""
        if foretold > _LEAST_WAIT:
            # Never less than foretold: it is learned only when a wait is over, too late to follow it down and up.
            ratio = min(max(waited / foretold, 1.0), _MOST_OFF)
            self._factor = _average(self._factor, ratio, _WEIGHT_OF_A_WAIT)


def _average(before: float, now: float, weight: float) -> float:
    return before + weight * (now - before)


def check_wait(wait: float, work: float, left: float, longest_wait: float) -> None:
    """Raise the `Problem` that says why more isn't taken on, if it isn't.

    All in seconds: `wait` is how long new work waits, `work` how long it takes then, `left` is until its deadline.
    """
    if wait > longest_wait:
        # Written so that what is refused now is likely to be accepted then.
        seconds = max(1, math.ceil(wait - longest_wait / 2))
        raise retry(BUSY, f"{wait:.1f} s of work wait already, {longest_wait:g} s is the most", seconds)
    # What can begin at once is tried, whatever it took before: how else would a wrong estimate be found out?
    if left <= 0 or (wait and wait + work > left * (1 - _MARGIN)):
        seconds = max(1, math.ceil(wait))
        what = f"the answer would take {_shown(wait + work)} s, and {_shown(max(left, 0))} s are left"
        raise retry(LATE, what, seconds)


def _shown(seconds: float) -> str:
    """Return seconds with as many digits as tell something."""
    return f"{seconds:.2f}" if seconds >= _SHORT else f"{seconds:.6f}".rstrip("0").rstrip(".")


def late() -> Problem:
    """Return the problem of a request whose deadline came before its turn."""
    return retry(LATE, "the deadline came before the answer", 1)


class Bodies:
    """The bytes of all bodies in memory at once, of requests that aren't answered yet."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def share(self) -> Share:
        """Return one request's share of them, empty yet."""
        return Share(self)


class Share:
    """The bytes of one request's body, until it is answered."""

    __slots__ = ("_bodies", "_size")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    def add(self, size: int) -> None:
        """Count bytes that came; raises a `Problem` where there is no room for them."""
        bodies = self._bodies
        if bodies.held + size > bodies.limit:
            raise retry(BUSY, f"bodies of {bodies.held} bytes are being worked on already", 1)
        bodies.held += size
        self._size += size

    def end(self) -> None:
        """Give the room back."""
        self._bodies.held -= self._size
        self._size = 0
