"""No picture of the hostile collection costs a server much memory."""

from __future__ import annotations

from benchmarks.serving import hostile


def test_no_hostile_picture_grows_memory_by_more_than_64_mb() -> None:
    growths = {name: growth for name, (growth, _) in hostile.measured("ours").items()}
    assert len(growths) >= 60
    assert max(growths.values()) <= 64_000_000, max(growths, key=lambda name: growths[name])
