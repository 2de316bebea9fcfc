"""What one look found, and how many looks at once are kept from hanging."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, TypeVar

from vitruvian.errors import NotAllowed, VitruvianError

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds after which looks that go on are given up."""

_UNSEEN: Final = "not allowed to look at"


class Level(StrEnum):
    """How much a finding matters."""

    ok = "ok"
    note = "note"
    """Not there, and not needed."""
    warning = "warning"
    """Something works less well, or wasn't to be seen."""
    error = "error"
    """Something essential is missing."""


@dataclass(frozen=True)
class Finding:
    """What one look found and, where something is missing, how to get it."""

    name: str
    level: Level
    found: str
    hint: str = ""
    command: str = ""
    """What to run; where there is a hint, too, the hint introduces it."""


def ok(name: str, found: str) -> Finding:
    return Finding(name, Level.ok, found)


def note(name: str, found: str, hint: str = "", command: str = "") -> Finding:
    return Finding(name, Level.note, found, hint, command)


def warning(name: str, found: str, hint: str = "", command: str = "") -> Finding:
    return Finding(name, Level.warning, found, hint, command)


def error(name: str, found: str, hint: str = "", command: str = "") -> Finding:
    return Finding(name, Level.error, found, hint, command)


def unseen(name: str, what: str) -> Finding:
    """Return the finding for what this user may not see; who to ask is said once, for all of them."""
    return warning(name, f"{_UNSEEN} {what}")


@dataclass(frozen=True)
class Check:
    """A look that is still to be taken."""

    section: str
    name: str
    look: Callable[[], Finding]
    late: Callable[[str, str, str], Finding] = warning
    """What no answer in time amounts to."""


@dataclass(frozen=True)
class Report:
    """All findings, each with its section, in the order in which people read them."""

    findings: tuple[tuple[str, Finding], ...]

    @property
    def missing(self) -> list[str]:
        """The names of what is essential and missing."""
        return [finding.name for _, finding in self.findings if finding.level is Level.error]

    @property
    def unseen(self) -> int:
        """How much this user may not see."""
        return sum(finding.found.startswith(_UNSEEN) for _, finding in self.findings)

    @property
    def warnings(self) -> int:
        return sum(finding.level is Level.warning for _, finding in self.findings)


def carry_out(checks: Sequence[Check], patience: float = PATIENCE) -> Report:
    """Take all looks at once and return their findings in order; one that takes too long is told as that."""
    findings = at_once([partial(_answered, check) for check in checks], patience)
    late = f"no answer in {patience:.0f} s"
    return Report(
        tuple(
            (check.section, finding or check.late(check.name, late, "check the connection, and look again"))
            for check, finding in zip(checks, findings, strict=True)
        )
    )


def at_once(acts: Sequence[Callable[[], T]], patience: float = PATIENCE) -> list[T | None]:
    """Return what each act returns, None where it takes too long. An act must not raise."""
    answers: list[queue.Queue[T]] = [queue.Queue() for _ in acts]
    for act, answer in zip(acts, answers, strict=True):
        # A thread that hangs must not keep the command from ending.
        threading.Thread(target=_answer, args=(act, answer), daemon=True).start()
    deadline = time.monotonic() + patience
    found: list[T | None] = []
    for answer in answers:
        try:
            found.append(answer.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            found.append(None)
    return found


def _answer(act: Callable[[], T], answer: queue.Queue[T]) -> None:
    answer.put(act())


def _answered(check: Check) -> Finding:
    try:
        return check.look()
    except NotAllowed as e:
        return unseen(check.name, e.what)
    except VitruvianError as e:
        what = e.what if e.where is None else f"{e.what} ({e.where})"
        return warning(check.name, f"can't be told: {what}", e.hint or "")


Version = tuple[int, ...]


def version_of(text: str) -> Version | None:
    """Return the numbers of a version such as v1.34.4-eks-1; None where there are none."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", text)
    return tuple(map(int, found[1].split("."))) if found else None


def written(version: Version) -> str:
    return ".".join(map(str, version))
