"""What `vitruvian spec explain` prints is read in a terminal of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vitruvian import fields, spec
from vitruvian.errors import SpecError


def printed(path: str, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    fields.show(console, fields.found(path))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 160, 250])
def test_every_fields_name_type_and_meaning_fit_into_a_terminal(width: int) -> None:
    lines = printed("", width)
    assert max(map(len, lines)) <= width
    begun = [line.split()[0] for line in lines if not line.startswith(" ")]
    paths = [line.path for line in spec.fields()]
    assert [name for name in begun if name != "field"] == paths
    # No field costs more than a few lines.
    assert len(lines) < 4 * len(paths)


def test_a_meaning_stands_beside_its_field_where_there_is_room_and_below_it_where_there_is_none() -> None:
    head, beside = printed("spec.training.epochs", 160)
    assert head.split() == ["field", "type", "default", "meaning"]
    assert beside.startswith("spec.training.epochs  integer  15       Passes over the training part, at most; 0: ")
    name, *below = printed("spec.training.epochs", 80)
    assert name == "spec.training.epochs  integer, default 15"
    assert len(below) == 2 and all(line.startswith("    ") for line in below)


@pytest.mark.parametrize(
    ("path", "paths"),
    [
        ("spec.training.epochs", ["spec.training.epochs"]),
        ("training.epochs", ["spec.training.epochs"]),
        ("training.earlyStopping.", ["spec.training.earlyStopping", "spec.training.earlyStopping.patience"]),
        ("metadata.name", ["metadata.name"]),
        ("gates[].metric", ["spec.gates[].metric"]),
        *(
            (gates, ["spec.gates", "spec.gates[].metric", "spec.gates[].atLeast", "spec.gates[].versus"])
            for gates in ("spec.gates", "gates")
        ),
        *(
            (space, ["spec.tuning.space", *(f"spec.tuning.space.FIELD.{way}" for way in ("uniform", "logUniform"))])
            for space in ("spec.tuning.space", "tuning.space")
        ),
    ],
)
def test_a_path_is_explained_with_what_lies_below_it_and_needs_no_spec(path: str, paths: list[str]) -> None:
    assert [line.path for line in fields.found(path)][: len(paths)] == paths


def test_a_path_that_is_none_is_answered_with_the_nearest() -> None:
    for path in ("trainin.epochs", "spec.trainin.epochs"):
        with pytest.raises(SpecError, match=r"there is no field 'trainin.epochs'; did you mean 'training.epochs'"):
            fields.found(path)
