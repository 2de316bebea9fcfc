"""The fields of the declaration as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vitruvian import spec
from vitruvian.console import BETWEEN
from vitruvian.controls import escaped
from vitruvian.errors import SpecError
from vitruvian.spec import FieldLine

_WIDEST = 24
"""Of types and defaults in a table: longer ones go on in the next line."""
_LEAST = 48
"""So many characters of meaning a line, or no table is made."""


def found(path: str) -> list[FieldLine]:
    """Return the fields at and below a path, with or without its `spec.`; all of them without a path.

    Raises `SpecError` where there is none.
    """
    every = list(spec.fields())
    wanted = path.rstrip(".")
    for start in (wanted, f"spec.{wanted}"):
        if lines := [line for line in every if _within(line.path, start)]:
            return lines
    raise SpecError(spec.unknown(wanted.removeprefix("spec.")))


def _within(path: str, start: str) -> bool:
    # A list's fields lie below PATH[].
    return not start or path == start or path.startswith((f"{start}.", f"{start}[]."))


def show(console: Console, lines: Sequence[FieldLine]) -> None:
    """Print a table of fields; where it would leave their meaning too little room, each meaning below its field."""
    widths = (
        max(len(line.path) for line in lines),
        min(_WIDEST, max(len(line.kind) for line in lines)),
        min(_WIDEST, max(len(line.default) for line in lines)),
    )
    if console.width - sum(widths) - len(widths) * BETWEEN >= _LEAST:
        _table(console, lines, widths)
    else:
        _list(console, lines)


def _table(console: Console, lines: Sequence[FieldLine], widths: tuple[int, int, int]) -> None:
    table = Table(box=None, padding=(0, BETWEEN, 0, 0), pad_edge=False, header_style="dim")
    for head, width in zip(("field", "type", "default"), widths, strict=True):
        table.add_column(head, width=max(width, len(head)), overflow="fold")
    table.add_column("meaning", overflow="fold")
    for line in lines:
        table.add_row(line.path, Text(escaped(line.kind)), Text(escaped(line.default)), _meaning(line))
    console.print(table)


def _list(console: Console, lines: Sequence[FieldLine]) -> None:
    for line in lines:
        default = escaped(line.default)
        said = f"{escaped(line.kind)}, {default if default == 'required' else f'default {default}'}"
        beside = len(line.path) + BETWEEN + len(said) <= console.width
        # A field's name is what people search for: it stays in one piece.
        name = Text.assemble((line.path, "bold"), (f"{'':{BETWEEN}}{said}" if beside else "", "dim"))
        console.print(name, soft_wrap=True)
        if not beside:
            console.print(_below(Text(said, "dim")))
        console.print(_below(_meaning(line)))


def _below(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2 * BETWEEN), expand=False)


def _meaning(line: FieldLine) -> Text:
    # The declaration breaks long texts where its own lines end.
    said = Text(" ".join(escaped(part) for part in line.text.splitlines()))
    return said.append(f" Not implemented yet: {line.planned}.", "yellow") if line.planned else said
