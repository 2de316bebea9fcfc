"""Sets of texts that are being encoded: whose turn it is, what is taken on, and what nobody needs any more."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vitruvian.inference.admission import Ticket
from vitruvian.inference.problems import BUSY, retry

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MOST_SECONDS = 30.0
"""Of work before a new set's own: what is more is refused. Of more that nobody waits for only the least is kept."""
_MOST = 64
"""Sets at once."""
_PATIENCE = 1.5
"""Whoever is told to come again in so many seconds comes a little later."""
_GRACE = 2.0


@dataclass(eq=False)
class Build(Generic[T]):
    """One set that is being encoded: how many of its texts are left, and how many requests wait for it."""

    left: int
    waiting: int = 0
    keep_until: float = 0.0
    """Until when somebody may come again for it."""
    task: asyncio.Task[T] | None = None
    expiry: asyncio.TimerHandle | None = None

    @property
    def rank(self) -> tuple[bool, int]:
        """What has a lower one goes first: what is waited for before what isn't, then what is soon done."""
        return not self.waiting, self.left


def texts_before(left: int, builds: Iterable[Build[Any]]) -> int:
    """Return how many texts are encoded before the last of a set that is waited for and has so many."""
    return sum(build.left for build in builds if build.waiting and build.left <= left)


class Builds(Generic[K, T]):
    """What is being encoded, by its key; to be used from one event loop.

    One part of one set is encoded at a time, and then it is decided again whose turn it is: a small set waits for no
    large one. A set that nobody waits for is dropped once those who were told to come again didn't.
    """

    def __init__(self) -> None:
        self._builds: dict[K, Build[T]] = {}
        self._turns: dict[Build[T], asyncio.Future[None]] = {}
        self._taken = False

    def __len__(self) -> int:
        return len(self._builds)

    def get(self, key: K) -> Build[T] | None:
        """Return what is being encoded."""
        return self._builds.get(key)

    def seconds(self, build: Build[T], each: float) -> int:
        """Return in how many seconds a set will be there, where a text takes `each`."""
        before = texts_before(build.left, (other for other in self._builds.values() if other is not build))
        return max(1, math.ceil((before + build.left) * each))

    def begin(
        self,
        key: K,
        texts: int,
        each: float,
        run: Callable[[Build[T]], Coroutine[Any, Any, T]],
        done: Callable[[T], None],
    ) -> Build[T]:
        """Take on a set of so many texts, of which each takes `each` seconds; `done` is called with what it became.

        Raises a `Problem` where there is too much before it.
        """
        before = texts_before(texts, self._builds.values()) * each
        if before > MOST_SECONDS:
            raise retry(BUSY, f"{before:.0f} s of labels are being encoded already", math.ceil(before))
        self._make_room(each)
        build: Build[T] = Build(texts)
        self._builds[key] = build
        build.task = asyncio.create_task(run(build))
        build.task.add_done_callback(lambda task: self._ended(key, build, task, done))
        return build

    async def wait(self, key: K, build: Build[T], ticket: Ticket, each: float) -> bool:
        """Wait for a set as long as there is time, and tell whether it is there."""
        assert build.task is not None
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def leave() -> None:
            if not left.done():
                left.set_result(None)

        ticket.on_leave(leave)
        build.waiting += 1
        if build.expiry is not None:
            build.expiry.cancel()
        try:
            awaited: set[asyncio.Future[Any]] = {build.task, left}
            await asyncio.wait(awaited, timeout=max(0.0, ticket.left), return_when=asyncio.FIRST_COMPLETED)
            if not build.task.done() and not ticket.gone:
                comes_again = time.monotonic() + _PATIENCE * self.seconds(build, each) + _GRACE
                build.keep_until = max(build.keep_until, comes_again)
        finally:
            build.waiting -= 1
            if not build.waiting and not build.task.done():
                self._expire(key, build)
        return build.task.done()

    @asynccontextmanager
    async def turn(self, build: Build[T]) -> AsyncIterator[None]:
        """Hold the one turn that there is; the next one goes to what has the lowest rank then."""
        if self._taken:
            turn = self._turns[build] = asyncio.get_running_loop().create_future()
            try:
                await turn
            except asyncio.CancelledError:
                # It may have been given just before.
                if self._turns.pop(build, None) is None:
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        self._taken = bool(self._turns)
        if self._turns:
            self._turns.pop(min(self._turns, key=lambda build: build.rank)).set_result(None)

    def _expire(self, key: K, build: Build[T]) -> None:
        seconds = max(0.0, build.keep_until - time.monotonic())
        build.expiry = asyncio.get_running_loop().call_later(seconds, self._drop, key, build)

    def _drop(self, key: K, build: Build[T]) -> None:
        # At once: whoever asks before the task has ended begins anew.
        if self._builds.get(key) is build:
            del self._builds[key]
        if build.task is not None:
            build.task.cancel()

    def _make_room(self, each: float) -> None:
        """Drop what nobody waits for, as far as it is too much; raises a `Problem` where all is waited for."""
        idle = sorted((key for key, build in self._builds.items() if not build.waiting), key=self._left)
        while idle and (
            len(self._builds) >= _MOST or (len(idle) > 1 and sum(map(self._left, idle)) * each > MOST_SECONDS)
        ):
            key = idle.pop()
            self._drop(key, self._builds[key])
        if len(self._builds) >= _MOST:
            raise retry(BUSY, f"{len(self._builds)} sets of labels are being encoded already", 5)

    def _left(self, key: K) -> int:
        return self._builds[key].left

    def _ended(self, key: K, build: Build[T], task: asyncio.Task[T], done: Callable[[T], None]) -> None:
        if build.expiry is not None:
            build.expiry.cancel()
        if self._builds.get(key) is build:
            del self._builds[key]
        if not task.cancelled() and task.exception() is None:
            done(task.result())
