"""Ctrl-C in real processes, at moments when its exception is lost or does harm."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import os, signal, time
from vitruvian import interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt.install(lambda: (print("ended", flush=True), os._exit(1)))
def press(): os.kill(os.getpid(), signal.SIGINT)
def press_later():
    time.sleep(0.6)
    press()
"""


def ends(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_swallowed_ctrl_c_is_raised_at_the_next_look() -> None:
    told = ends("try:\n    press()\nexcept BaseException:\n    print('swallowed')\ninterrupt.look()\nprint('went on')")
    assert "swallowed" in told
    assert "KeyboardInterrupt" in told
    assert "went on" not in told


def test_a_held_ctrl_c_comes_after_the_block() -> None:
    told = ends("with interrupt.held():\n    press()\n    print('whole')\nprint('went on')")
    assert "whole" in told
    assert "KeyboardInterrupt" in told
    assert "went on" not in told


def test_a_ctrl_c_that_became_another_error_is_known_of() -> None:
    told = ends("try:\n    press()\nexcept BaseException:\n    pass\nprint(interrupt.came())")
    assert told == "True\n"


def test_a_second_ctrl_c_is_not_held() -> None:
    assert ends("with interrupt.held():\n    press()\n    press_later()\n    print('whole')") == "ended\n"


def test_a_second_ctrl_c_ends_what_tidies_up_after_the_first() -> None:
    assert ends("try:\n    press()\nfinally:\n    press_later()\n    print('tidied up')") == "ended\n"


def test_a_ctrl_c_that_is_sent_twice_counts_once() -> None:
    told = ends("try:\n    press()\nexcept KeyboardInterrupt:\n    press()\n    print('tidied up')")
    assert told == "tidied up\n"


@pytest.mark.parametrize("program", ["interrupt.look()", "with interrupt.held(): pass"])
def test_without_ctrl_c_nothing_is_raised(program: str) -> None:
    assert ends(program) == ""


def test_a_process_that_is_deaf_to_ctrl_c_stays_so() -> None:
    told = ends(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\ninterrupt.install(lambda: None)\npress()\nprint('went on')"
    )
    assert told == "went on\n"
