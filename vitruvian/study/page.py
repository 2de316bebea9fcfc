"""What people read about a study: one HTML page, one picture, one CSV, and the best variant's declaration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitruvian.evaluation import plots
from vitruvian.study.plot import picture
from vitruvian.study.results import Row, Run, columns, comparable, rows, table
from vitruvian.variants import SEEDS, Axis, names, shown

PAGE = "study.html"
BEST = "best.yaml"


@dataclass(frozen=True)
class Study:
    """Everything that a study's page tells."""

    name: str
    """The classifier's name."""
    id: str
    created: datetime
    axes: Sequence[Axis]
    runs: Sequence[Run]
    dropped: Sequence[str]
    """What is wrong with the combinations that were left out."""
    spec: Mapping[str, Any]
    """The declaration that all variants begin with."""

    @property
    def varied(self) -> list[Axis]:
        return [axis for axis in self.axes if axis.path not in SEEDS]

    @property
    def seeds(self) -> list[Axis]:
        return [axis for axis in self.axes if axis.path in SEEDS]


def files(study: Study, best: str | None) -> dict[str, bytes]:
    """Return the content of every file; `best` is the declaration of the best variant."""
    found = rows(study.runs)
    figure = picture(found, study.axes)
    made = {
        "study.png": plots.png(figure),
        "study.csv": table(study.runs, study.axes).encode(),
        PAGE: page(study, found, plots.svg(figure)).encode(),
    }
    return made if best is None else {**made, BEST: best.encode()}


def page(study: Study, found: Sequence[Row], figure: str) -> str:
    """Return the HTML page; it needs no other file and no other host."""
    environment = Environment(
        loader=PackageLoader("vitruvian", "study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    short = names([axis.path for axis in study.varied])
    heads = list(columns(found[0]))
    return environment.get_template("page.html").render(
        study=study,
        heads=[*short.values(), *heads],
        rows=[([shown(row.values[path]) for path in short], list(columns(row).values()), row.errors) for row in found],
        measured=len(heads),
        comparable=comparable(found),
        figure=Markup(figure),
        seeds=[(axis.path, ", ".join(map(shown, axis.values))) for axis in study.seeds],
        spec=yaml.safe_dump(dict(study.spec), sort_keys=False, allow_unicode=True).strip(),
    )
