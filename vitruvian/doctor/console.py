"""Findings as people read them in a terminal, and as programs read them."""

from __future__ import annotations

import json
import textwrap
from itertools import groupby

from rich.console import Console
from rich.text import Text

from vitruvian.doctor.finding import Finding, Level, Report

_MARKS = {Level.ok: ("✓", "green"), Level.note: ("-", "dim"), Level.warning: ("!", "yellow"), Level.error: ("✗", "red")}
_INDENT = "  "


def show(console: Console, report: Report) -> None:
    """Print a line for each finding, below it how to get what is missing, and at last what it comes to."""
    width = console.width if console.is_terminal else None
    column = max(len(finding.name) for _, finding in report.findings)
    for number, (section, findings) in enumerate(groupby(report.findings, key=lambda each: each[0])):
        _line(console, ("\n" if number else "") + section, "bold")
        for _, finding in findings:
            _show(console, finding, column, width)
    _line(console, "")
    mark, colour = _MARKS[Level.error if report.missing else Level.ok]
    warnings = f"; {report.warnings} warning{'s' if report.warnings > 1 else ''}" if report.warnings else ""
    what = f"missing: {', '.join(report.missing)}" if report.missing else "nothing essential is missing"
    for line in _wrapped(f"{what}{warnings}", f"{mark} ", _INDENT, width):
        _line(console, line, colour)
    if report.unseen:
        told = f"{report.unseen} not to be seen with your rights: the cluster's administrator may run the same command"
        for line in _wrapped(told, "! ", _INDENT, width):
            _line(console, line, "yellow")


def _show(console: Console, finding: Finding, column: int, width: int | None) -> None:
    mark, colour = _MARKS[finding.level]
    margin = " " * (len(_INDENT) + 2 + column + 2)
    first, *more = _wrapped(finding.found, f"{_INDENT}{mark} {finding.name:<{column}}  ", margin, width)
    # The mark's colour is the mark's only: names and what was found are to be read, not to alarm.
    head = Text(first, "dim" if finding.level is Level.note else "")
    head.stylize(colour, len(_INDENT), len(_INDENT) + 1)
    console.print(head, soft_wrap=True)
    for line in more:
        _line(console, line, "dim" if finding.level is Level.note else "")
    for line in _wrapped(finding.hint, f"{margin}→ ", f"{margin}  ", width) if finding.hint else ():
        _line(console, line)
    if finding.command:
        # In one piece, however long, so that it can be copied.
        _line(console, f"{_INDENT}    {finding.command}", "cyan")


def _wrapped(text: str, first: str, others: str, width: int | None) -> list[str]:
    if width is None:
        return [first + text]
    wrapper = textwrap.TextWrapper(
        width - 1, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.wrap(text) or [first]


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)


def machine_readable(report: Report) -> str:
    """Return all findings as JSON."""
    findings = [
        {
            "section": section,
            "name": finding.name,
            "level": finding.level.value,
            "found": finding.found,
            "hint": finding.hint,
            "command": finding.command,
        }
        for section, finding in report.findings
    ]
    return json.dumps({"ok": not report.missing, "findings": findings}, indent=2, ensure_ascii=False)
