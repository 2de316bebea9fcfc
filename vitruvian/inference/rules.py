"""What a challenger gets: of the traffic, of the CPUs and of the memory. Pure decisions."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

from vitruvian.inference.service import Settings
from vitruvian.machine import usable_cpus

STABLE, CANARY = "stable", "canary"
TRACK = b"x-vitruvian-track"
"""The header that names a track, of requests and of answers."""
KEY = b"x-vitruvian-key"
"""The header by whose value it is decided who answers: equal ones get one version."""
COOKIE = "vitruvian-track"
"""The cookie that names a track; any other value of it is a key."""

_COOKIE = re.compile(rb"(?:^|;)\s*" + COOKIE.encode() + rb"=\"?([^;\"\s]+)")
_COOKIE_SECONDS = 30 * 86_400


@dataclass(frozen=True)
class Rules:
    """What a challenger gets of the traffic; shares in percent."""

    share: float = 0.0
    """Of the requests that ask for no version: it answers them."""
    shadow: float = 0.0
    """Of the requests that the champion answers: it predicts them, too, for nobody."""
    sticky_cookie: bool = False
    """Clients get a cookie by which they go on with one version."""


def challenger_settings(settings: Settings, rules: Rules) -> Settings:
    """Return the bounds of a challenger beside a champion of these: lanes and memory in proportion to its share."""
    lanes = settings.lanes or usable_cpus()
    own = max(1, math.ceil(lanes * min(rules.share, 100) / 100))
    return replace(
        settings,
        track=CANARY,
        lanes=own,
        max_bodies=max(settings.max_body, settings.max_bodies * own // lanes),
        max_decoding=max(settings.max_decoded, settings.max_decoding * own // lanes),
    )


def drawn(key: bytes | None, salt: bytes, share: float) -> bool:
    """Decide whether the challenger answers, which it does for `share` percent of all keys.

    The same key and salt always give the same, and who is drawn for a share is drawn for every larger one. Without a
    key it is left to chance.
    """
    if key is None:
        draw = random.random()
    else:
        draw = int.from_bytes(blake2b(key, digest_size=8, key=salt[:64]).digest()) / 2**64
    return draw * 100 < share


def cookie(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the value of the cookie in a request's headers."""
    found = _COOKIE.search(headers.get(b"cookie", b""))
    return None if found is None else found[1]


def new_cookie() -> tuple[bytes, bytes]:
    """Return a key that nobody has yet, and the header's value that sets it."""
    key = f"{random.getrandbits(64):016x}"
    return key.encode(), f"{COOKIE}={key}; Path=/; Max-Age={_COOKIE_SECONDS}; HttpOnly; SameSite=Lax".encode()
