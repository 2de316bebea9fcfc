"""How many messages may be on their way at once, and how long each may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError

from vitruvian.inference.problems import MALFORMED, TOO_SLOW, Problem

_GRACE_SECONDS = 3.0
"""How long a message may take while others wait for its place."""


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
            raise Problem(MALFORMED, "the message isn't of the protocol") from e

    def _hurry(self, now: float) -> None:
        """Have the message that takes longest, and isn't hurried yet, give way."""
        for until, began in self._arriving.items():
            soon, planned = began + _GRACE_SECONDS, until.when()
            if planned is not None and planned > soon:
                until.reschedule(max(soon, now))
                return
