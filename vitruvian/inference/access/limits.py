"""Token buckets: so many requests a minute on average, and so many at once."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from vitruvian.inference.access.policy import RateLimit
from vitruvian.inference.problems import RATE_LIMITED, Problem

_MOST = 100_000
"""Identities that are remembered; who isn't has a full bucket."""


def part(limit: RateLimit, shares: int) -> tuple[float, float]:
    """Return what one of so many processes gives of a limit: requests a minute, and at once."""
    # Less than one at once would let nobody in.
    return limit.requests_per_minute / shares, max(1.0, limit.burst / shares)


class Buckets:
    """A bucket for each identity."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str, limit: RateLimit, shares: int = 1) -> None:
        """Take a token; raises a `Problem` that says when there is one again.

        What is given here is the part of one of so many processes that share the limit.
        """
        each, burst = part(limit, shares)
        now, rate = self._clock(), each / 60
        level, since = self._levels.pop(who, (burst, now))
        level = min(burst, level + (now - since) * rate)
        if level < 1:
            self._levels[who] = (level, now)
            wait = math.ceil((1 - level) / rate)
            detail = f"{limit.requests_per_minute:g} requests a minute are allowed, {limit.burst:g} at once"
            if shares > 1:
                detail += f"; each of {shares} processes gives its part, this one {each:g} a minute, {burst:g} at once"
            headers = {
                "Retry-After": str(max(1, wait)),
                # As in the IETF's draft on RateLimit header fields.
                "RateLimit-Policy": f'"default";q={math.floor(burst)};w={math.ceil(burst / rate)}',
                "RateLimit": f'"default";r=0;t={max(1, wait)}',
            }
            raise Problem(RATE_LIMITED, detail, headers)
        self._levels[who] = (level - 1, now)
        if len(self._levels) > _MOST:
            self._levels.popitem(last=False)
