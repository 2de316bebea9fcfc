"""From an existing system's configs to the text of a Classifier."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitruvian import spec
from vitruvian.errors import SpecError
from vitruvian.migration.entries import Entry, checked, entries, named, recognise, shown, snake
from vitruvian.migration.read import Config
from vitruvian.migration.table import Aside, Given, Key, Outcome, Put, Refused, System

SECRET = (
    "a secret is never copied; S3's keys belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on a cluster in the "
    "chart's Secret, other services' in their own variables"
)
_MOST_UNKNOWN = 200
_FEW = 20


@dataclass(frozen=True)
class Imported:
    """A Classifier as text, what must be done to it, and what of the configs it doesn't say: (key, what to know)."""

    system: str
    text: str
    classifier: spec.Classifier
    todo: tuple[tuple[str, str], ...]
    remarks: tuple[tuple[str, str], ...]


@dataclass
class _Draft:
    """What is known so far; `origins` tells by field which key said it."""

    puts: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    asides: list[tuple[str, Aside]] = field(default_factory=list)
    todo: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def take(self, origin: str, path: str, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Put):
                self.puts[outcome.path] = outcome.value
                self.origins[outcome.path] = origin
            elif isinstance(outcome, Aside):
                self.asides.append((path, outcome))
            elif isinstance(outcome, Refused):
                self.wrong.append(f"{origin}: {outcome.what}; {outcome.hint}")
            else:
                self.remarks.append((path, outcome.text))


def convert(configs: Sequence[Config], systems: Sequence[System], name: str | None = None) -> Imported:
    """Return the Classifier that says what a system's configs say; flags count more than files.

    Raises `SpecError` with a line for each thing that is wrong: no config of any system, two systems, two files that
    say different things, a value that means nothing.
    """
    system = recognise(configs, systems)
    draft = _Draft()
    for habit in system.habits:
        draft.take(system.title, habit.path, [Put(habit.path, habit.value)])
    given = _given(configs, system, draft)
    values = {path: entry.value for path, entry in given.items()}
    for key in system.keys:
        value = values.get(key.path, key.default)
        if value is not None:
            where = given[key.path].where if key.path in given else f"{system.title}'s default"
            draft.take(f"{where}: {key.path}", key.path, key.outcomes(Given(value, where, values)))
    if draft.wrong:
        raise SpecError("\n".join(draft.wrong))
    _name(draft, system, name)
    return _finished(draft, system, [config.where for config in configs])


def _given(configs: Sequence[Config], system: System, draft: _Draft) -> dict[str, Entry]:
    """Return the entries that the table knows by the table's path, their values checked; all others are remarked on."""
    found: dict[str, Entry] = {}
    for config in sorted(configs, key=lambda config: config.flags):
        listed = list(entries(config, system))
        whole = named(config, system)
        if whole and not any(entry.key for entry in listed):
            few = listed if len(listed) <= _FEW else []
            draft.remarks += [(config.where, f"{whole.to}; {whole.note}"), *((e.path, SECRET) for e in few if e.secret)]
            draft.remarks += [(e.path, f"no place; see {config.where}") for e in few if not e.secret]
            continue
        if sum(entry.key is None for entry in listed) > _MOST_UNKNOWN:
            what = f"has more than {_MOST_UNKNOWN} keys that {system.title} doesn't know"
            raise SpecError(what, where=config.where, hint="give its config")
        for entry in listed:
            if entry.secret:
                draft.remarks.append((entry.path, SECRET))
            elif entry.key is None:
                draft.remarks.append((entry.path, _unknown(entry.path, system)))
            elif entry.value is not None:
                _take(found, entry, entry.key, config, draft)
    return found


def _take(found: dict[str, Entry], entry: Entry, key: Key, config: Config, draft: _Draft) -> None:
    try:
        entry = Entry(entry.path, checked(entry, key), entry.where, key)
    except SpecError as e:
        draft.wrong.append(str(e))
        return
    before = found.get(key.path)
    if before is not None and before.value != entry.value:
        if config.flags and before.where != entry.where:
            draft.remarks.append((key.path, f"the flag's value is taken instead of the one in {before.where}"))
        else:
            place = before.where if before.where != entry.where else f"{before.where} as {before.path}"
            line = SpecError(f"{shown(entry.path)} differs from {place}", where=entry.where, hint="keep one of them")
            draft.wrong.append(str(line))
    found[key.path] = entry


def _unknown(path: str, system: System) -> str:
    by_name = {key.path.rpartition(".")[2]: key.path for key in system.keys}
    own = _nearest(path.rpartition(".")[2], by_name, 0.75)
    near, place = _field(path)
    if near > own[0]:
        return f"{place} is the place here; write it yourself"
    return f"unknown key; did you mean '{by_name[own[1]]}'?" if own[0] else f"no key of {system.title} that is known"


def _field(path: str) -> tuple[float, str]:
    """Return the Classifier's field that is called much like an unknown key, and before it how much."""
    section, _, name = f".{snake(path)}".rpartition(".")
    within = section.rpartition(".")[2]
    likeness, found = max(_nearest(each, _places(), 0.8) for each in (name, f"{within}.{name}"))
    places = _places().get(found, ())
    return likeness, " or ".join([place for place in places if place.split(".")[1] == within] or places)


@functools.cache
def _places() -> dict[str, list[str]]:
    """Return the fields of data, model and training by their names below these: what other systems have, too."""
    found: dict[str, list[str]] = {}
    for line in spec.fields():
        if line.path.startswith(("spec.data.", "spec.model.", "spec.training.")):
            found.setdefault(snake(line.path.split(".", 2)[2]), []).append(line.path)
    return found


def _nearest(name: str, names: Iterable[str], cutoff: float) -> tuple[float, str]:
    """Return the name that is most like a name, and before it how much; (0, "") where none is."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return (difflib.SequenceMatcher(None, near[0], name).ratio(), near[0]) if near else (0.0, "")


def _name(draft: _Draft, system: System, name: str | None) -> None:
    if name is not None:
        draft.take("--name", "metadata.name", [Put("metadata.name", name)])
    classifier = draft.puts.setdefault("metadata.name", system.name)
    if "spec.data.source" not in draft.puts:
        guess = draft.puts["spec.data.source"] = f"data/{classifier}"
        draft.todo.append(("spec.data.source", f"{guess} is only a guess; name {system.data}"))


def _finished(draft: _Draft, system: System, files: Sequence[str]) -> Imported:
    declared: dict[str, Any] = {"apiVersion": "vitruvian.dev/v1alpha1", "kind": "Classifier"}
    order = [line.path for line in spec.fields()]
    for path in sorted(draft.puts, key=order.index):
        part = declared
        *above, last = path.split(".")
        for step in above:
            part = part.setdefault(step, {})
        part[last] = draft.puts[path]
    remarks = tuple(_grouped(draft.remarks))
    head = f"# By `vitruvian spec import` from {', '.join(map(shown, files))}: {system.title}.\n"
    text = head + spec.dump(declared) + "".join(f"{line}\n" for line in _comments(draft, remarks))
    try:
        classifier = spec.parse(text, "Classifier")
    except SpecError as e:
        raise SpecError("\n".join(_back(line, draft.origins) for line in str(e).splitlines())) from e
    # Of a key's fields the first one says why, and the file has them all.
    first = dict(reversed(draft.asides))
    asides = [(key, f"{aside.path} is a comment for now; {aside.why}") for key, aside in first.items()]
    return Imported(system.title, text, classifier, tuple(draft.todo), (*remarks, *_grouped(reversed(asides))))


def _comments(draft: _Draft, remarks: Sequence[tuple[str, str]]) -> Iterator[str]:
    if draft.todo:
        yield "# To do before the first run:"
    for key, what in draft.todo:
        yield f"#   {key}: {what}"
    if draft.asides:
        yield "# Lines that this file can't hold now:"
    for key, aside in draft.asides:
        value = shown(json.dumps(aside.value, ensure_ascii=False), 10_000)
        yield f"#   {aside.path}: {value}   # {shown(key)}: {aside.why}"
    if remarks:
        yield "# To know:"
    for key, what in remarks:
        yield f"#   {key}: {what}"


def _grouped(remarks: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each remark once, with all the keys that it is about."""
    keys: dict[str, list[str]] = {}
    for key, what in remarks:
        keys.setdefault(what, []).append(shown(key))
    for what, about in keys.items():
        yield ", ".join(dict.fromkeys(about)), what


def _back(line: str, origins: dict[str, str]) -> str:
    """Say in a line about the Classifier which key of the configs is meant."""
    if found := re.match(r"Classifier: ([A-Za-z.]+)[^:]*: (.*)", line):
        path = found[1]
        while path and path not in origins:
            path = path.rpartition(".")[0]
        if path:
            return f"{shown(origins[path])}: {found[1]}: {found[2]}"
    return line
