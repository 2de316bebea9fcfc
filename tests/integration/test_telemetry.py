"""What is served or exported here is told to nobody: the libraries that would tell their makers are kept from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.bundles import make_bundle, picture, publish_exports
from tests.processes import serving

# Where one of these is set the libraries are silent anyway.
SILENCED = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "NNCF_CI", "NNCF_DEV", "ORT_DISABLE_TELEMETRY")
PREDICT = "from vitruvian.cli import main; main()"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a file, of a user whom the libraries may take for anybody."""
    for name in (*SILENCED, *(name for name in os.environ if name.startswith("XDG_"))):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A classifier whose one model is two exports, as both runtimes read ONNX."""
    bundle = make_bundle(tmp_path)
    model = (bundle.folder / bundle.served.path).read_bytes()
    return publish_exports(tmp_path, bundle, {"onnx": model, "openvino": model}, "onnx")


def _written(home: Path) -> list[str]:
    """Return what lies in a home beside what is this project's."""
    paths = (path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.startswith(".cache/vitruvian/"))


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_server_leaves_nothing_for_its_runtimes_makers(store: Path, home: Path, format: str) -> None:
    with serving(store, "--format", format) as (_, address):
        assert httpx.post(f"{address}/predict/image", content=picture("red")).json()["label"] == "red"
    assert _written(home) == []


def test_predicting_leaves_nothing_for_the_runtimes_makers(store: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    subprocess.run([sys.executable, "-c", PREDICT, "predict", str(store), str(tmp_path / "red.png")], check=True)
    assert _written(home) == []


@pytest.mark.parametrize("library", ["onnxruntime", "openvino", "nncf"])
def test_a_library_that_tells_its_makers_when_it_is_imported_tells_nothing_here(home: Path, library: str) -> None:
    subprocess.run([sys.executable, "-c", f"import vitruvian, {library}"], check=True)
    assert _written(home) == []


@pytest.mark.parametrize("image", ["server", "server-ray", "trainer"])
def test_an_image_is_silent_whatever_runs_in_it(image: str) -> None:
    assert " ORT_DISABLE_TELEMETRY=1" in (Path("images") / f"{image}.Dockerfile").read_text()
