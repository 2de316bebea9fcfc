"""What is told of a run that a changed setting leaves unfinished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vitruvian import artifact
from vitruvian.store import open_store
from vitruvian.training.latest import PLACE, Latest, begin, differences

BEFORE = Latest("a" * 16, "stages/train/aa", {"training.seed": 1})
NOW = Latest("b" * 16, "stages/train/bb", {"training.seed": 2})
LEFT = f"run {BEFORE.run} isn't finished, and this is another one: training.seed was 1 and is 2"


def _saved(root: Path, run: str, *checkpoints: str) -> None:
    state = {"attempt": 1, "checkpoints": checkpoints, "weights": None}
    open_store(root).put(f"checkpoints/{run}/state.json", json.dumps(state).encode())


def test_a_run_that_is_left_unfinished_is_named_once(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert begin(store, BEFORE) is None
    _saved(tmp_path, BEFORE.run, "step-00000001")
    assert begin(store, BEFORE) is None, "it goes on"
    assert begin(store, NOW) == LEFT
    assert begin(store, NOW) is None


def test_nothing_is_told_of_runs_that_saved_nothing_or_are_finished(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    begin(store, BEFORE)
    assert begin(store, NOW) is None

    _saved(tmp_path, NOW.run, "step-00000001")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model").write_text("weights")
    artifact.commit(store, NOW.made, tmp_path / "made", {})
    assert begin(store, BEFORE) is None


@pytest.mark.parametrize(
    "damaged", [b"", b"[]", b"{}", b"\xff", b'{"run": 1, "made": "x", "decides": {}}', b"[" * 100_000]
)
def test_a_damaged_note_is_written_anew(tmp_path: Path, damaged: bytes) -> None:
    store = open_store(tmp_path)
    store.put(PLACE, damaged)
    assert begin(store, NOW) is None
    assert json.loads(store.get(PLACE))["run"] == NOW.run


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "b was 2 and is 3"),
        ({"a": None}, {"a": "x"}, 'a was null and is "x"'),
        ({}, {"a": 1}, "a was not set and is 1"),
        ({"a": [1]}, {}, "a was [1] and is not set"),
        ({}, dict.fromkeys("abcde", 1), ", ".join(f"{n} was not set and is 1" for n in "abc") + ", and 2 more"),
        ({"a": 1}, {"a": 1}, "the data or the pretrained weights have changed"),
    ],
)
def test_differences_are_told_in_words(before: dict[str, Any], now: dict[str, Any], told: str) -> None:
    assert differences(before, now) == told
