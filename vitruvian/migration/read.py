"""From the text of a config to its keys: JSON, YAML, a module of constants, a notebook, flags."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from vitruvian import spec
from vitruvian.errors import SpecError
from vitruvian.migration.table import Kind

FLAGS = "the flags"
WANTED = "a config in JSON or YAML, a Python module of constants, or a notebook"
_MOST, _DEEPEST = 1_000_000, 50


@dataclass(frozen=True)
class Config:
    """What one file says, or the flags of a command."""

    where: str
    values: Mapping[Any, Any]
    code: bool = False
    """Whether it is Python: names in lower case that no table knows are no settings there."""

    @property
    def flags(self) -> bool:
        return self.where == FLAGS


class Computed:
    """The value of a setting that only running the file would tell."""


def read(where: str, text: str) -> Config:
    """Return what a file's text says; raises `SpecError` for what is no config at all."""
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise SpecError("is empty", where=where, hint=f"give {WANTED}")
    suffix = PurePath(where).suffix.lower()
    if suffix == ".py":
        return Config(where, _constants(where, text), code=True)
    if suffix == ".ipynb":
        return Config(where, _constants(where, _code(where, _json(where, text))), code=True)
    value = _json(where, text) if suffix == ".json" else _yaml(where, text)
    if not isinstance(value, dict):
        raise SpecError("is not a map of keys and values", where=where, hint=f"give {WANTED}; flags go behind --")
    _check_size(where, value)
    return Config(where, value)


def _check_size(where: str, value: Any) -> None:
    """Refuse what YAML's aliases make endless, or endlessly large."""
    waiting, seen = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        if seen > _MOST or depth > _DEEPEST:
            raise SpecError("is larger or deeper than any config", where=where, hint=f"give {WANTED}")
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        waiting += [(item, depth + 1) for item in inner]


def read_flags(words: Sequence[str], kinds: Mapping[str, Kind]) -> Config:
    """Return what a command's flags say: `--lr 3e-6 --push_to_hub --export_format onnx torchscript`."""
    given: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in given:
                raise SpecError(f"--{name} stands twice", where=FLAGS, hint="keep one of them")
            given[name] = [value] if equals else []
        else:
            given[name].append(word)
    return Config(FLAGS, {flag: _flag(flag, values, kinds.get(flag, Kind.any)) for flag, values in given.items()})


def _flag(name: str, values: list[str], kind: Kind) -> Any:
    if kind is Kind.list:
        return values
    if len(values) > 1:
        raise SpecError(f"--{name} has {len(values)} values", where=FLAGS, hint="give it one")
    if not values:
        return True
    (value,) = values
    if kind is Kind.flag and value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float) if kind in (Kind.integer, Kind.number, Kind.flag) else ():
        try:
            return number(value)
        except ValueError:
            continue
    return value


def _json(where: str, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise SpecError(f"the key {twice!a} stands twice", where=where, hint="keep one of them")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as e:
        raise SpecError(f"is not valid JSON: {e.msg}", where=f"{where}:{e.lineno}:{e.colno}", hint="mend it") from e
    except (ValueError, RecursionError) as e:
        raise SpecError("holds a value that can't be read", where=where, hint="is it a config?") from e


def _yaml(where: str, text: str) -> Any:
    found = spec.documents(text, where)
    if len(found) != 1:
        raise SpecError(f"holds {len(found)} documents", where=where, hint="give a file with one")
    return found[0]


def _code(where: str, notebook: Any) -> str:
    """Return the Python of a notebook's cells, without the lines that only a notebook understands."""
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise SpecError("is not a notebook: it has no cells", where=where, hint="save it from Jupyter")
    lines: list[str] = []
    for cell in cells:
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            source = cell.get("source", "")
            text = "".join(map(str, source)) if isinstance(source, list) else str(source)
            lines += [line for line in text.splitlines() if not line.lstrip().startswith(("%", "!", "?"))]
    return "\n".join(lines)


def _constants(where: str, text: str) -> dict[str, Any]:
    """Return a module's assignments, and the arguments of its calls; nothing of it is run."""
    try:
        tree = ast.parse(text)
    except SyntaxError as e:
        # Of a zero byte it tells no line.
        place, hint = (where, "is it a config?") if e.lineno is None else (f"{where}:{e.lineno}", "mend this line")
        raise SpecError(f"is not valid Python: {e.msg}", where=place, hint=hint) from e
    except (ValueError, RecursionError, MemoryError) as e:
        raise SpecError("holds Python that can't be read", where=where, hint="is it a config?") from e
    found: dict[str, Any] = {}
    plain = [each for scope in ast.walk(tree) if isinstance(scope, ast.Module | ast.ClassDef) for each in scope.body]
    unconditional = set(map(id, plain))
    for name, value in (pair for statement in plain for pair in _assigned(statement)):
        found[name] = _literal(value)
    for node in ast.walk(tree):
        if id(node) not in unconditional:
            # Within a function or a condition: whether it counts, only running the file would tell.
            found |= {name: Computed() for name, _ in _assigned(node)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and not call.func.id.isupper():
            argument = _literal(call.args[0]) if call.args else []
            same = found.setdefault(call.func.id, argument) == argument
            found[call.func.id] = argument if same else Computed()
    return found


def _assigned(node: ast.AST) -> list[tuple[str, ast.expr]]:
    if isinstance(node, ast.Assign):
        return [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        return [(node.target.id, node.value)]
    return []


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return Computed()
