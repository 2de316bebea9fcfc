"""What a table of a system's keys is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Kind(Enum):
    """What a key's value is."""

    text = "a text"
    integer = "a whole number"
    number = "a number"
    flag = "true or false"
    list = "a list"
    any = "anything"


@dataclass(frozen=True)
class Put:
    """A field of the Classifier with its value."""

    path: str
    value: Any


@dataclass(frozen=True)
class Aside:
    """A field that the Classifier can't or shouldn't have now: written as a comment, with why."""

    path: str
    value: Any
    why: str


@dataclass(frozen=True)
class Remark:
    """What a person must know of a key that isn't carried over as it is."""

    text: str


@dataclass(frozen=True)
class Refused:
    """A value that means nothing here, or something else."""

    what: str
    hint: str


Outcome = Put | Aside | Remark | Refused


@dataclass(frozen=True)
class Given:
    """A key's value with the file it is from, among all that the configs say; a default isn't among them."""

    value: Any
    where: str
    values: Mapping[str, Any] = field(default_factory=dict)


Rule = Callable[[Given], Iterable[Outcome]]


@dataclass(frozen=True)
class Key:
    """A key of a config, or a flag without its dashes.

    `to` is the field of the Classifier that says the same, or what else does its work; empty: nothing. A rule says what
    becomes of a value. Without one a value of a kind is put into the field, and any other is named with the note.
    """

    path: str
    to: str = ""
    note: str = ""
    kind: Kind = Kind.any
    ids: tuple[str, ...] = ()
    default: Any = None
    """What the system does without the key, where a Classifier would do something else."""
    rule: Rule | None = None

    def outcomes(self, given: Given) -> Iterable[Outcome]:
        """Return what becomes of a value that is of the key's kind."""
        if self.rule:
            return self.rule(given)
        if self.kind is not Kind.any:
            return (Put(self.to, given.value),)
        return (Remark(f"{self.to}; {self.note}" if self.to else self.note),)


@dataclass(frozen=True)
class Whole:
    """A file that is known by its name, since its keys are a user's own or are told nowhere."""

    name: str
    to: str
    note: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Habit:
    """What a system always does, and a Classifier must be told."""

    path: str
    value: Any
    note: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """An existing system: its name for people and for its classifier, where its data was, and its keys."""

    title: str
    name: str
    data: str
    keys: tuple[Key, ...]
    habits: tuple[Habit, ...]
    wholes: tuple[Whole, ...] = ()
    nested: bool = False
    """Whether a key counts wherever in a config it stands, since only its own name is told."""

    def key(self, path: str) -> Key | None:
        """Return the key at a path, such as `training_config.batch_size`."""
        last = path.rpartition(".")[2] if self.nested else path
        return next((key for key in self.keys if key.path in (path, last)), None)

    def whole(self, name: str) -> Whole | None:
        """Return the file of a name."""
        return next((whole for whole in self.wholes if whole.name == name), None)
