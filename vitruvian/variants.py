"""Variants of one declaration: all combinations of some fields' values, or drawn ones."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vitruvian import spec
from vitruvian.artifact import digest_of
from vitruvian.errors import SpecError
from vitruvian.spec import Classifier, Domain, Model, Tuning

TRAINING_SEED = "training.seed"
SPLIT_SEED = "data.seed"
SEEDS = (TRAINING_SEED, SPLIT_SEED)
ONE_PROCESS = {"training.strategy": "none", "training.workers": 1}
"""What all trials of a search have in common."""
_TRAINED = ("data", "model", "training")
_MOST_VARIANTS = 10_000
# So many in a row that add nothing say that the space has no more.
_DRAWS_IN_VAIN = 1000


Check = Callable[[Model], None]
"""Raises `SpecError` for a model that can't be built."""


@dataclass(frozen=True)
class Axis:
    """A field that varies, by its path below spec, and its values in order."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Variant:
    """One combination of values, and the declaration that has them."""

    values: Mapping[str, Any]
    classifier: Classifier

    @property
    def words(self) -> str:
        return words(self.values)

    @property
    def title(self) -> str:
        """The values with short names."""
        return titled(self.values)


def words(values: Mapping[str, Any]) -> str:
    """Return values as people read them: path=value, path=value."""
    return ", ".join(f"{path}={shown(value)}" for path, value in values.items())


def titled(values: Mapping[str, Any]) -> str:
    """Return values by their short names: name=value, name=value."""
    short = names(list(values))
    return words({short[path]: value for path, value in values.items()})


def shown(value: Any) -> str:
    """Return a value as it is written in YAML, on one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def names(paths: Sequence[str]) -> dict[str, str]:
    """Return a short name for each path: its last part, where no other path ends in the same."""
    last = [path.rpartition(".")[2] for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}


def axes(vary: Sequence[str], seeds: str | None = None, split_seeds: str | None = None) -> tuple[Axis, ...]:
    """Read what varies, as it is written on the command line; raises `SpecError` with a line for each fault."""
    written = [("--vary", text) for text in vary]
    written += [("--seeds", f"{TRAINING_SEED}={seeds}")] if seeds is not None else []
    written += [("--split-seeds", f"{SPLIT_SEED}={split_seeds}")] if split_seeds is not None else []
    if not written:
        raise SpecError("nothing varies", where="--vary", hint="write --vary model.freezeLayers=0,2,4")
    found: list[Axis] = []
    faults: list[str] = []
    for option, text in written:
        try:
            found.append(_axis(text))
        except ValueError as e:
            faults.append(f"{option} {text}: {e}")
    paths = [axis.path for axis in found]
    faults += [f"--vary {path}: varies twice; name it once" for path in sorted(set(paths)) if paths.count(path) > 1]
    try:
        spec.check_apart(paths)
    except ValueError as e:
        faults.append(f"--vary {e}")
    if faults:
        raise SpecError("\n".join(faults))
    return tuple(found)


def _axis(text: str) -> Axis:
    path, separator, listed = text.partition("=")
    path = path.strip()
    if not separator or not path:
        raise ValueError("is not PATH=VALUE,VALUE; write model.freezeLayers=0,2,4")
    if path.split(".")[0] not in _TRAINED and spec.field_at(path) is not None:
        raise ValueError(f"{path} changes nothing that is trained; use fields of data, model and training")
    if spec.field_at(path) is None:
        raise ValueError(spec.unknown(path))
    values = spec.values(listed)
    if not values:
        raise ValueError("there are no values; write them after the '=', with commas between them")
    try:
        different = {digest_of(value) for value in values}
    except (TypeError, ValueError) as e:
        raise ValueError("holds what no declaration can; put dates and the like in quotes") from e
    if len(different) < len(values):
        raise ValueError("a value stands twice; name it once")
    return Axis(path, values)


def grid(
    classifier: Classifier, varied: Sequence[Axis], check: Check = lambda model: None
) -> tuple[list[Variant], list[str]]:
    """Return every valid combination of the axes' values, and a line for each thing that is wrong with the others."""
    count = math.prod(len(axis.values) for axis in varied)
    if count > _MOST_VARIANTS:
        what = f"{count:,} combinations, more than {_MOST_VARIANTS:,}"
        raise SpecError(what, where="--vary", hint="name fewer values, or look for better ones with vitruvian tune")
    valid: list[Variant] = []
    checked: dict[str, SpecError | None] = {}
    refused: list[str] = []
    for values in itertools.product(*(axis.values for axis in varied)):
        chosen = dict(zip((axis.path for axis in varied), values, strict=True))
        try:
            made = variant(classifier, chosen)
            _check(made, check, checked)
            valid.append(made)
        except SpecError as e:
            refused.append(str(e))
    return valid, refused


def compared(
    classifier: Classifier, varied: Sequence[Axis], check: Check = lambda model: None, *, skip_invalid: bool = False
) -> tuple[list[Variant], list[str]]:
    """Return the variants of a study, and a line for each thing that is wrong with those that are left out.

    Raises `SpecError` where a combination isn't valid and none may be left out, or where none is valid.
    """
    valid, refused = grid(classifier, varied, check)
    if refused and not skip_invalid:
        raise SpecError("\n".join(refused), hint="change the values, or leave these out with --skip-invalid")
    if not valid:
        raise SpecError("no combination is valid", where="--vary", hint="\n".join(refused))
    return valid, refused


def tuning_of(classifier: Classifier) -> Tuning:
    """Return what a search varies; raises `SpecError` where that isn't declared."""
    if classifier.spec.tuning is None:
        hint = "write tuning: {space: {training.learningRate: {logUniform: [1e-5, 1e-2]}}}"
        raise SpecError("is missing, so nothing can vary", where="spec.tuning", hint=hint)
    return classifier.spec.tuning


def place_of_best(out: str) -> tuple[str, str]:
    """Return the address of the store that a search writes its best declaration to, and the key there.

    `out` is a file or s3://BUCKET/KEY; raises `SpecError` for an address of S3 that names no file.
    """
    if not out.startswith("s3://"):
        file = Path(out).absolute()
        return str(file.parent), file.name
    bucket, _, key = out.removeprefix("s3://").partition("/")
    if not bucket or not key or key.endswith("/"):
        raise SpecError("names no file", where="--out", hint="write s3://BUCKET/PREFIX/best.yaml")
    return f"s3://{bucket}", key


def variant(classifier: Classifier, values: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> Variant:
    """Return the declaration with other values of some fields, and without tuning; raises `SpecError`.

    `fixed` are values that aren't told of: what all variants have in common.
    """
    document = copy.deepcopy(classifier.document())
    document["spec"].pop("tuning", None)
    for path, value in {**values, **(fixed or {})}.items():
        _set(document["spec"], path, value)
    return Variant(values, spec.check(document, words(values)))


def _check(made: Variant, check: Check, checked: dict[str, SpecError | None]) -> None:
    """Raise `SpecError` where a variant's model can't be built; each model is looked at once."""
    model = made.classifier.spec.model
    key = digest_of(model.model_dump(mode="json"))
    if key not in checked:
        try:
            check(model)
            checked[key] = None
        except SpecError as e:
            checked[key] = e
    if fault := checked[key]:
        raise SpecError(fault.what, where=f"{made.words}: {fault.where}", hint=fault.hint)


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if not isinstance(document.get(name), dict):
            document[name] = {}
        document = document[name]
    document[last] = copy.deepcopy(value)


def draw(
    classifier: Classifier, tuning: Tuning, count: int, fixed: Mapping[str, Any], check: Check = lambda model: None
) -> list[Variant]:
    """Return different valid variants drawn from the space, the same for the same seed; more begin with the fewer.

    There may be fewer than `count`, where the space has no more. Raises `SpecError` where it has none.
    """
    generator = np.random.default_rng(tuning.seed)
    found: dict[str, Variant] = {}
    checked: dict[str, SpecError | None] = {}
    fault: SpecError | None = None
    in_vain = 0
    while len(found) < count and in_vain < _DRAWS_IN_VAIN:
        values = {path: _sample(domain, generator) for path, domain in tuning.space.items()}
        name = digest_of(values)
        in_vain += 1
        if name in found:
            continue
        try:
            made = variant(classifier, values, fixed)
            _check(made, check, checked)
            found[name] = made
            in_vain = 0
        except SpecError as e:
            fault = e
    if not found:
        what = f"no combination that was drawn is valid, such as {fault}"
        raise SpecError(what, where="spec.tuning.space", hint="change the space")
    return list(found.values())


def _sample(domain: Domain, generator: np.random.Generator) -> Any:
    if domain.uniform:
        return _rounded(generator.uniform(*domain.uniform))
    if domain.log_uniform:
        low, high = map(math.log, domain.log_uniform)
        return _rounded(math.exp(generator.uniform(low, high)))
    if domain.integer:
        return int(generator.integers(*domain.integer, endpoint=True))
    assert domain.choice
    return domain.choice[int(generator.integers(len(domain.choice)))]


def _rounded(value: float) -> float:
    # What a table shows and people write down is then what was trained with.
    return float(f"{value:.4g}")
