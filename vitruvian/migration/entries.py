"""The keys of configs as one system's table knows them, and which system that is."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from vitruvian import spec
from vitruvian.errors import SpecError
from vitruvian.migration.read import Computed, Config
from vitruvian.migration.table import Key, Kind, System, Whole

_SECRET = re.compile(
    r"(^|_)(secrets?|passwords?|passwd|pwd|tokens?|credentials?|(api|access|private|secret|signing)_?keys?(_id)?)(_|$)"
)
_LOOKS_SECRET = re.compile(
    r"://[^/\s@]+:[^/\s@]*@|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\b(hf|ghp|gho|glpat|sk|wandb_v1)[_-][A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a map"}


@dataclass(frozen=True)
class Entry:
    """A key as it stands in a config, with the table's key where there is one."""

    path: str
    value: Any
    where: str
    key: Key | None

    @property
    def secret(self) -> bool:
        """Whether the name or the value says that nobody else may read it."""
        words = re.sub(r"[^a-z0-9]+", "_", snake(self.path))
        return bool(self.key is None and _SECRET.search(words)) or _looks_secret(self.value)


def snake(name: str) -> str:
    """Return a name like `weightDecay` as `weight_decay`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _looks_secret(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_looks_secret, value))
    if isinstance(value, dict):
        return any(map(_looks_secret, value.values()))
    return isinstance(value, str) and bool(_LOOKS_SECRET.search(value))


def entries(config: Config, system: System, values: Any = None, above: str = "") -> Iterator[Entry]:
    """Yield a config's keys, down to those that the system's table knows."""
    for name, value in (config.values if values is None else values).items():
        path = f"{above}.{name}" if above else str(name)
        key = system.key(path)
        # Where only a key's own name is told, a section may be called like it.
        if isinstance(value, dict) and value and (key is None or (system.nested and key.kind is not Kind.any)):
            yield from entries(config, system, value, path)
        elif key or not config.code or path.partition(".")[0].isupper():
            yield Entry(path, value, config.where, key)
            yield from _inside(config, system, path, value)


def _inside(config: Config, system: System, path: str, value: Any) -> Iterator[Entry]:
    """Yield what no table knows in the maps of a list."""
    known = {key.path for key in system.keys if key.path.startswith(f"{path}[].")}
    for number, item in enumerate(value if known and isinstance(value, list) else ()):
        for name in item if isinstance(item, dict) else ():
            if f"{path}[].{name}" not in known:
                yield Entry(f"{path}[{number}].{name}", item[name], config.where, None)


def recognise(configs: Sequence[Config], systems: Sequence[System]) -> System:
    """Return the system that wrote the configs; raises `SpecError` where none did, or not one alone."""
    scores = {system.name: [_score(config, system) for config in configs] for system in systems}
    for number, config in enumerate(configs):
        if not any(each[number] for each in scores.values()):
            titles = "; ".join(system.title for system in systems)
            raise SpecError("is not a config of a system that is known here", where=config.where, hint=titles)
    most = [max(scores[system.name][number] for system in systems) for number in range(len(configs))]
    whole = [system for system in systems if scores[system.name] == most]
    if not whole:
        last = configs[-1].where
        raise SpecError("belongs to another system than the files before it", where=last, hint="import them apart")
    first, *others = whole
    if others:
        raise SpecError(
            f"may be a config of {first.title} or of {others[0].title}",
            where=configs[0].where,
            hint="give its other files, too",
        )
    if not any(config.flags or named(config, first) for config in configs):
        _check_enough(configs, first)
    return first


def _check_enough(configs: Sequence[Config], system: System) -> None:
    """Refuse a lone name such as `lr`, which any program's config may have, unless the system has no other."""
    known = {entry.key.path for config in configs for entry in entries(config, system) if entry.key}
    names = {name for path in known for name in path.split(".")}
    if len(names) < min(2, len(system.keys)):
        what = (
            f"{', '.join(names)} alone doesn't tell that this is a config of {system.title}, and no other key is known"
        )
        hint = "give its other keys or files, too; docs/coming-from.md has the systems that are read, and every key"
        raise SpecError(what, where=configs[0].where, hint=hint)


def _score(config: Config, system: System) -> float:
    """Return how many keys are the system's; those that only have the right name somewhere count half."""
    known = [entry for entry in entries(config, system) if entry.key]
    exact = sum(1.0 if entry.key and entry.key.path == entry.path else 0.5 for entry in known)
    return exact or (0.5 if named(config, system) else 0.0)


def named(config: Config, system: System) -> Whole | None:
    """Return the system's file that has the config's name."""
    return system.whole(PurePath(config.where).name)


def checked(entry: Entry, key: Key) -> Any:
    """Return a value that is of its key's kind; raises `SpecError` for another one, without saying it."""
    kind = key.kind

    def wrong(what: str, hint: str) -> SpecError:
        return SpecError(f"{shown(entry.path)}: {what}", where=entry.where, hint=hint)

    value = entry.value
    if isinstance(value, Computed):
        raise wrong("is known only when the file runs", "write its value instead")
    if kind is Kind.list and isinstance(value, str):
        value = [value]
    if kind is Kind.integer and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is Kind.number and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15:
        value = float(value)
    wanted = {Kind.text: str, Kind.integer: int, Kind.number: float, Kind.flag: bool, Kind.list: list}.get(kind, object)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        if isinstance(value, int | float) and not isinstance(value, bool) and kind in (Kind.integer, Kind.number):
            raise wrong(f"{kind.value} is wanted", "write a smaller one" if kind is Kind.number else "round it")
        is_now = _TYPES.get(type(value), "something else")
        raise wrong(f"{kind.value} is wanted, not {is_now}", _place_of_number(key, value) or "mend it")
    if (isinstance(value, int) and abs(value) >= 10**15) or (isinstance(value, float) and not math.isfinite(value)):
        raise wrong("the number is out of range", "write a smaller one")
    if isinstance(value, str) and (not value.strip() or not _writable(value)):
        raise wrong("the text is empty" if not value.strip() else "the text isn't one line of characters", "mend it")
    return value


def _place_of_number(key: Key, value: Any) -> str | None:
    """Return where a number goes that stands at a key for true or false, if the key's field is one for numbers."""
    countable = key.kind is Kind.flag and isinstance(value, int | float)
    counts = countable and any(line.path == key.to and line.kind == "integer" for line in spec.fields())
    return f"a number belongs in {key.to} of the Classifier" if counts else None


def _writable(text: str) -> bool:
    """Tell whether a text is characters on one line: no control, line break or half of a pair."""
    return not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in text)


def shown(text: str, most: int = 200) -> str:
    """Return a text as one line of a comment or a terminal."""
    cut = text if len(text) <= most else f"{text[:most]}…"
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut)
