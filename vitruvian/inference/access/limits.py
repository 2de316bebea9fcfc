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


class Buckets:
    """A bucket for each identity."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str, limit: RateLimit, declared: RateLimit | None = None, shares: int = 1) -> None:
        """Take a token; raises a `Problem` that says when there is one again.

        `limit` is one of so many processes' part of what was `declared`.
        """
        now, rate = self._clock(), limit.requests_per_minute / 60
        level, since = self._levels.pop(who, (limit.burst, now))
        level = min(limit.burst, level + (now - since) * rate)
        if level < 1:
            self._levels[who] = (level, now)
            wait = math.ceil((1 - level) / rate)
            whole = declared or limit
            detail = f"{whole.requests_per_minute:g} requests a minute are allowed, {whole.burst:g} at once"
            if shares > 1:
                detail += (
                    f"; each of {shares} processes gives its part, this one {limit.requests_per_minute:g} a minute, "
                    f"{limit.burst:g} at once"
                )
            headers = {
                "Retry-After": str(max(1, wait)),
                # As in the IETF's draft on RateLimit header fields.
                "RateLimit-Policy": f'"default";q={math.floor(limit.burst)};w={math.ceil(limit.burst / rate)}',
                "RateLimit": f'"default";r=0;t={max(1, wait)}',
            }
            raise Problem(RATE_LIMITED, detail, headers)
        self._levels[who] = (level - 1, now)
        if len(self._levels) > _MOST:
            self._levels.popitem(last=False)
