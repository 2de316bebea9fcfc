"""What a person is told when configs have become a Classifier: first what must be done, then what is to know."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from vitruvian.migration.convert import Imported

_INDENT = "  "


def todo(made: Imported, width: int | None) -> Iterator[str]:
    """Yield the lines of what must be done before the first run; without a width each is in one piece."""
    for key, what in made.todo:
        yield from _wrapped(f"! edit {key}: {what}", "", width)


def notes(made: Imported, width: int | None) -> Iterator[str]:
    """Yield whose configs these were, and what became of the keys that aren't carried over as they are."""
    yield from _wrapped(f"read as a config of {made.system}{'; its keys:' if made.remarks else ''}", "", width)
    for key, what in made.remarks:
        yield from _wrapped(f"{key}: {what}", _INDENT, width)


def _wrapped(text: str, margin: str, width: int | None) -> list[str]:
    if width is None:
        return [margin + text]
    further = margin + _INDENT
    return textwrap.wrap(
        text,
        max(width - 1, 40),
        initial_indent=margin,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
