"""The address of the synthetic set, synthetic://poses?count=4000&seed=0&subjects=40; `vitruvian.data` draws it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

LEAST: Final = 30
"""An example of each of the ten poses for each of the three parts of the data."""
_SCHEME: Final = "synthetic:"
_SET: Final = f"{_SCHEME}//poses"
_GROUP: Final = "subject"
_LONGEST_SHOWN: Final = 100
_LEAST_SUBJECTS: Final = 3
_MOST: Final = 1_000_000
_RANGES: Final = {"count": (LEAST, _MOST), "seed": (0, 2**32 - 1), "subjects": (1, _MOST)}
_DEFAULTS: Final = {"count": 4000, "seed": 0, "subjects": 40}


@dataclass(frozen=True)
class SyntheticSet:
    """How many figures, from which seed, of how many people."""

    count: int
    seed: int
    subjects: int


def is_synthetic(address: str) -> bool:
    """Tell whether an address means to name the synthetic set."""
    return address.startswith(_SCHEME)


def parse(address: str) -> SyntheticSet:
    """Read the set's address, of which every parameter may be left out.

    Raises `ValueError` for another set, an unknown or repeated parameter, or a value out of range.
    """
    place, _, query = address.partition("?")
    if place.rstrip("/") != _SET or "#" in address:
        raise ValueError(f"{address[:_LONGEST_SHOWN]!r} is no synthetic set; write {_SET}")
    values = dict(_DEFAULTS)
    given: set[str] = set()
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in values:
            near = difflib.get_close_matches(name, values, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(values)}"
            raise ValueError(f"the synthetic set has no parameter {name[:_LONGEST_SHOWN]!r}; {hint}")
        if name in given:
            raise ValueError(f"{name} is given twice; remove one of them")
        given.add(name)
        values[name] = _whole_number(name, text)
    if values["subjects"] > values["count"]:
        if "subjects" in given:
            raise ValueError(
                f"{values['subjects']} subjects are too many for {values['count']} figures; lower subjects"
            )
        values["subjects"] = values["count"]
    return SyntheticSet(**values)


def check_groups(asked: SyntheticSet, column: str) -> None:
    """Raise `ValueError` where the set can't be grouped by a column."""
    if column != _GROUP:
        raise ValueError(f"groupBy: {column[:_LONGEST_SHOWN]!r} is no column of the synthetic set; write {_GROUP}")
    if asked.subjects < _LEAST_SUBJECTS:
        what = f"subjects is {asked.subjects}, but groupBy needs one for each of the three parts"
        raise ValueError(f"{what}; raise it to {_LEAST_SUBJECTS} or more")


def _whole_number(name: str, text: str) -> int:
    least, most = _RANGES[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= most):
        raise ValueError(f"{name} must be a whole number from {least} to {most}, not {text[:_LONGEST_SHOWN]!r}")
    return int(text)
