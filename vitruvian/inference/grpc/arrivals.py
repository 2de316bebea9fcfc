"""How many messages and streams of messages may be on their way at once, and how long each may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import DecodeError

from vitruvian.inference.problems import BUSY, MALFORMED, TOO_SLOW, Problem, retry

_GRACE_SECONDS = 3.0
"""How long a message may take while others wait for its place."""
_UNREADABLE = "the message isn't of the protocol"


class Arrivals:
    """Places for messages that arrive: how large one will be isn't told before it is there."""

    def __init__(self, most: int, seconds: float) -> None:
        self._free = asyncio.Semaphore(most)
        self._seconds = seconds
        self._arriving: dict[asyncio.Timeout, float] = {}

    async def only(self, asked: AsyncIterator[Any]) -> Any:
        """Return a call's one message; raises the `Problem` of one that doesn't come, or not in time."""
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._seconds) as until:
                if self._free.locked():
                    self._hurry(now())
                async with self._free:
                    self._arriving[until] = now()
                    try:
                        return await anext(asked)
                    finally:
                        del self._arriving[until]
        except TimeoutError as e:
            raise Problem(TOO_SLOW, "the message took too long to arrive") from e
        except StopAsyncIteration as e:
            raise Problem(MALFORMED, "there is no message, or too large a one") from e
        except DecodeError as e:
            raise Problem(MALFORMED, _UNREADABLE) from e

    def _hurry(self, now: float) -> None:
        """Have the message that takes longest, and isn't hurried yet, give way."""
        for until, began in self._arriving.items():
            soon, planned = began + _GRACE_SECONDS, until.when()
            if planned is not None and planned > soon:
                until.reschedule(max(soon, now))
                return


class Streams:
    """Places for streams of messages.

    gRPC tells of a message only when it is whole: who says nothing and who never ends a message look the same. So each
    stream is taken for one that holds as large a message as there may be, and one of which no message came whole for so
    many seconds gives way, but not before another needs its place: until then it may be silent.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._open = 0
        self._waiting: dict[asyncio.Timeout, float] = {}
        """When each began to wait for its next message, the one that has waited longest first."""

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place; raises the `Problem` that says that there is none."""
        if self._open >= self._most:
            self._make_room()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def next(self, asked: AsyncIterator[Any]) -> Any:
        """Return a stream's next message, None at its end; raises the `Problem` of one that ends here."""
        try:
            async with asyncio.timeout(None) as until:
                self._waiting[until] = asyncio.get_running_loop().time()
                try:
                    return await anext(asked, None)
                finally:
                    self._waiting.pop(until, None)
        except DecodeError as e:
            raise Problem(MALFORMED, _UNREADABLE) from e
        except TimeoutError as e:
            what = f"no message came whole for {self._seconds:g} s, and another stream needs this one's place"
            raise Problem(TOO_SLOW, what) from e

    def _make_room(self) -> None:
        now = asyncio.get_running_loop().time()
        until, began = next(iter(self._waiting.items()), (None, now))
        if until is None or now - began < self._seconds:
            raise retry(BUSY, f"{self._most} streams are open already", 1)
        del self._waiting[until]
        until.reschedule(now)
