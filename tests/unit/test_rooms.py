"""Imports go one way, and what is heavy stays where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vitruvian"

# From the bottom upwards: a room imports from its own or a lower line only.
FLOORS = [
    {"controls", "errors", "interrupt", "intervals", "machine", "observability", "synthetic", "words"},
    {"spec", "store"},
    {"artifact", "console", "fields", "migration"},
    {"variants"},
    {"data"},
    {"bundle", "models"},
    {"inference", "card", "client", "hub"},
    {"training", "evaluation", "export", "serving"},
    {"pipeline", "cluster", "planning"},
    {"demo", "doctor", "operator", "study", "tune"},
    {"cli"},
]
MAY_IMPORT = {
    "torch": {"models", "training", "evaluation", "export"},
    "transformers": {"models"},
    "peft": {"models"},
    "huggingface_hub": {"models", "hub"},
    # Tests only: what it saves is read without it.
    "torchvision": set(),
    "nncf": {"export"},
    "tensorrt": {"export"},
    "openvino": {"export", "inference"},
    "ray": {"training", "serving"},
    "kserve": {"serving"},
    "kopf": {"operator"},
    "kubernetes": {"cluster"},
    "grafana_foundation_sdk": {"observability"},
}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_from_its_own_floor_or_below(path: Path) -> None:
    floors = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "vitruvian" and len(parts) > 1 and parts[1] in floors:
            assert floors[parts[1]] <= floors[_room(path)], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_heavy_library_stays_in_its_rooms(path: Path) -> None:
    for name in _imports(path):
        library = name.split(".")[0]
        assert _room(path) in MAY_IMPORT.get(library, {_room(path)}), f"{path.name} imports {name}"


HEAVY = (
    "torch",
    "ray",
    "transformers",
    "sklearn",
    "matplotlib",
    "onnxruntime",
    "boto3",
    "scipy",
    "pandas",
    "kubernetes",
    "grafana_foundation_sdk",
)


def _loaded_by(code: str) -> set[str]:
    listed = "import sys; print('\\n'.join(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{listed}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_loads_no_heavy_library() -> None:
    code = "from typer.testing import CliRunner; from vitruvian.cli import app; CliRunner().invoke(app, ['--help'])"
    loaded = _loaded_by(code)
    assert "vitruvian" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_server_loads_neither_torch_nor_ray() -> None:
    loaded = _loaded_by("import vitruvian.inference.server, vitruvian.inference.predictor, vitruvian.bundle")
    assert "starlette" in loaded
    # A runtime is loaded with the export that it runs, and only that one.
    assert loaded.isdisjoint({"torch", "ray", "transformers", "sklearn", "matplotlib", "onnxruntime", "openvino"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_runs_needs_the_dashboards(path: Path) -> None:
    # grafana_foundation_sdk isn't installed in any image.
    assert "vitruvian.observability.dashboards" not in _imports(path)
