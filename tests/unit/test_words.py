"""One of a kind is told as one."""

from __future__ import annotations

import pytest

from vitruvian.pipeline import _ignored
from vitruvian.words import counted


@pytest.mark.parametrize(("count", "said"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (1600, "1,600 epochs")])
def test_only_one_is_told_without_an_s(count: int, said: str) -> None:
    assert counted(count, "epoch") == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "1 file was ignored: it is no image"), (2, "2 files were ignored: they are no images")],
)
def test_files_that_are_ignored_are_told_as_one_or_as_many(count: int, said: str) -> None:
    assert _ignored(count, "image") == said
