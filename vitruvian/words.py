"""Numbers as people say them."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """Return how many there are of something: 1 epoch, 1,000 epochs."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
