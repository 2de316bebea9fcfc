"""Answers as people read them in a terminal, a line for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitruvian.controls import escaped

_GAP = "  "
_SHARE = len("0.000000")


@dataclass(frozen=True)
class Layout:
    """What of an answer is shown, and how wide."""

    labels: tuple[str, ...] | None
    """Each of which has a column; None: only the next best are told, each beside its name."""
    head: tuple[str, ...]
    """The lines above all answers."""
    widths: tuple[int, ...]
    """Of all columns; where the path has a line of its own, of those below it."""
    apart: bool
    """The path has a line of its own, since nothing fits beside it."""

    def lines(self, path: str, label: str, confidence: float, probabilities: Mapping[str, float]) -> list[str]:
        """Return an answer's line, or its two."""
        if self.labels is not None:
            others = [share(probabilities[name]) for name in self.labels]
        else:
            best = sorted(probabilities, key=lambda name: -probabilities[name])
            widest = max(len(printable(name)) for name in probabilities)
            others = [f"{printable(name):<{widest}} {share(probabilities[name])}" for name in best if name != label]
        cells = [printable(label), share(confidence), *others]
        if self.apart:
            return [path, f"{_GAP}{_line(cells, self.widths)}"]
        return [_line([path, *cells], self.widths)]


def layout(paths: Sequence[str], labels: Sequence[str], room: int | None) -> Layout:
    """Return how answers for files are shown in so many characters a line; None: in as many as they take."""
    names = [printable(label) for label in labels]
    path = max(map(len, ("path", *paths)))
    label, confidence = max(map(len, ("label", *names))), len("confidence")
    every = (path, label, confidence, *(max(len(name), _SHARE) for name in names))
    if room is None or _wide(every) <= room:
        return Layout(tuple(labels), (_line(["path", "label", "confidence", *names], every),), every, False)
    apart = _wide((path, label, confidence)) > room
    first = (label, confidence) if apart else (path, label, confidence)
    another = max(map(len, names)) + 1 + _SHARE
    left = room - _wide(first) - (len(_GAP) if apart else 0)
    number = max(0, min(len(labels) - 1, left // (len(_GAP) + another)))
    widths = (*first, *[another] * number)
    heads = ["label", "confidence", *["next best"] * min(1, number)]
    head = ("path", f"{_GAP}{_line(heads, widths)}") if apart else (_line(["path", *heads], widths),)
    return Layout(None, head, widths, apart)


def _wide(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()


def share(probability: float) -> str:
    """Return a probability as all tables of answers write it."""
    return f"{probability:.6f}"


def printable(text: str) -> str:
    """Return what can be printed of a text: the name of a file need not be one, and may steer the terminal."""
    return escaped(text.encode(errors="replace").decode())
