"""An error is one line, whatever it names."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.projects import vitruvian
from vitruvian import spec
from vitruvian.errors import SpecError, VitruvianError

EVIL = "a\nb\r\x1b[31m\u2028c"
SHOWN = "a\\x0ab\\x0d\\x1b[31m\\u2028c"


@pytest.mark.parametrize("words", [{"where": EVIL}, {"hint": EVIL}, {"where": EVIL, "hint": EVIL}])
def test_names_tear_no_line_apart(words: dict[str, str]) -> None:
    error = VitruvianError(f"there is no '{EVIL}'", **words)
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert f"there is no '{SHOWN}'" in str(each) and EVIL not in str(each)
        assert len(str(each).splitlines()) == 1


def test_where_several_things_are_wrong_each_has_one_line() -> None:
    assert str(SpecError("one\ntwo\x1b")) == "one\ntwo\\x1b"
    with pytest.raises(SpecError) as refused:
        spec.parse('metadata: {name: yoga}\nspec: {"a\\nb": 1, "c": 2}', EVIL)
    lines = str(refused.value).splitlines()
    assert len(lines) > 2 and all(line.startswith(f"{SHOWN}: ") for line in lines)


def test_a_file_whose_name_has_a_line_break_is_one_line(tmp_path: Path) -> None:
    done = vitruvian("train", "-f", str(tmp_path / "a\nb.yaml"))
    assert done.returncode and len(done.stderr.splitlines()) == 1
