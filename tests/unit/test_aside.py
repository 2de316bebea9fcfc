"""Running things beside what comes next."""

from __future__ import annotations

import threading

import pytest

from vitruvian.inference.aside import begun


def test_what_was_begun_runs_before_anyone_waits_for_it() -> None:
    ran = threading.Event()

    def call() -> int:
        ran.set()
        return 7

    result = begun(call)
    assert ran.wait(10)
    assert result() == 7


def test_what_was_begun_raises_where_it_is_waited_for() -> None:
    def call() -> None:
        raise ValueError("no such folder")

    result = begun(call)
    with pytest.raises(ValueError, match="no such folder"):
        result()


def test_what_never_ends_keeps_no_process_from_ending() -> None:
    begun(threading.Event().wait)
    (thread,) = [each for each in threading.enumerate() if each.name == "begun"]
    assert thread.daemon
