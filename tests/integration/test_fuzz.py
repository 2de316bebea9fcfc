"""Mutated requests to a server that runs; `python -m benchmarks.serving fuzz` sends a hundred thousand."""

from __future__ import annotations

from benchmarks.serving.fuzz import fuzz


def test_whatever_is_sent_the_server_stays_and_the_answer_is_not_its_fault() -> None:
    found = fuzz(1000)
    assert not found.faults
    assert found.alive
    assert found.answers[200] and found.answers[400] and found.answers[422]
