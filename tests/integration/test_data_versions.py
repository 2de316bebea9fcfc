"""Data of a version, as Git and DVC hold it, with the real programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.projects import CLASSES, declare, write_data
from vitruvian.data import versions
from vitruvian.data.preprocess import ImagePreprocess
from vitruvian.data.sources import open_source
from vitruvian.errors import DataError, SpecError, VitruvianError
from vitruvian.spec import Data

DVC = shutil.which("dvc") or shutil.which("dvc", path=str(Path(sys.executable).parent))
needs_dvc = pytest.mark.skipif(DVC is None, reason="no program dvc here; get it with: uv tool install dvc")
IMAGES = ImagePreprocess(size=32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own settings and copies."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "studio")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "studio@localhost")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    # A script's own folder isn't on the path of those who call it by its whole name.
    monkeypatch.setenv("PATH", f"{Path(DVC).parent if DVC else ''}:{os.environ['PATH']}")


def _do(root: Path, *commands: str) -> None:
    for command in commands:
        done = subprocess.run(command.split(), cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def _with_dvc(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    root = tmp_path / "repository"
    root.mkdir()
    _do(root, "git init -q -b main .", "dvc init -q", f"dvc remote add -q -d kept {tmp_path / 'kept'}")
    data = write_data(root / "data/yoga")
    save = ("dvc add -q data/yoga", "dvc push -q", "git add .", "git commit -qm data")
    _do(root, *save, "git tag -a v1 -m first")
    for label in CLASSES:
        shutil.copy(data / label / "000.png", data / label / "more.png")
    _do(root, *save)
    shutil.rmtree(root / "data/yoga")
    return root


def _count(source: str, version: str | None = None) -> int:
    return len(open_source(Data(source=source, version=version), IMAGES).examples)


@needs_dvc
def test_a_version_is_what_the_repository_had_then_here_and_afar(tmp_path: Path) -> None:
    root = _with_dvc(tmp_path)
    for source in (f"{root}/data/yoga", f"git+file://{root}#subdirectory=data/yoga"):
        assert [_count(source, version) for version in ("v1", "main")] == [120, 123]
    assert _count(f"git+file://{root}#subdirectory=data/yoga") == 123
    # One copy for each of the two commits, and nothing that was left aside.
    assert len(list((tmp_path / "home/vitruvian/data").iterdir())) == 2


@needs_dvc
def test_a_tag_is_fetched_once_and_a_branch_that_moved_anew(tmp_path: Path) -> None:
    root = _with_dvc(tmp_path)
    source = f"{root}/data/yoga"
    before = open_source(Data(source=source, version="main"), IMAGES).version
    assert _count(source, "v1") == 120
    kept = (tmp_path / "kept").rename(tmp_path / "away")
    shutil.rmtree(root / ".dvc/cache")
    assert _count(source, "v1") == 120
    assert open_source(Data(source=source, version="main"), IMAGES).version == before
    kept.rename(tmp_path / "kept")
    _do(root, "git checkout -q -b next v1", "git commit -q --allow-empty -m next", "git branch -f main next")
    assert open_source(Data(source=source, version="main"), IMAGES).version != before
    assert _count(source, "main") == 120


@needs_dvc
def test_what_dvc_cannot_get_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    root = _with_dvc(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "away")
    shutil.rmtree(root / ".dvc/cache")
    for folder, why in (("data/yoga", "with 'dvc get' that its files were pushed"), ("data/yoag", "check the path")):
        with pytest.raises(DataError) as e:
            _count(f"{root}/{folder}", "v1")
        assert f"dvc can't get '{folder}' of commit " in str(e.value) and why in str(e.value)
        assert "\n" not in str(e.value)
    assert list((tmp_path / "home/vitruvian/data").iterdir()) == []


@needs_dvc
def test_the_bundles_lineage_names_the_commit(tmp_path: Path) -> None:
    root = _with_dvc(tmp_path)
    file = declare(tmp_path, f"{root}/data/yoga", data={"version": "v1"}, training={"epochs": 1})
    command = [sys.executable, "-c", "from vitruvian.cli import main; main()", "run", "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr
    (info,) = (tmp_path / "artifacts/bundles").glob("*/bundle.json")
    commit = versions.pinned(Data(source=f"{root}/data/yoga", version="v1")).version
    told = json.loads(info.read_text())
    assert told["lineage"]["data"]["commit"] == commit and len(commit or "") == 40
    assert told["spec"]["spec"]["data"]["version"] == "v1"


def test_a_version_that_is_not_there_or_can_not_be_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    write_data(root / "data/yoga", each=10)
    outside = write_data(tmp_path / "outside", each=10)
    _do(root, "git init -q -b main .", "git add .", "git commit -qm data", "git tag v1")
    here, afar = f"{root}/data/yoga", f"git+file://{root}#subdirectory=data/yoga"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: _count(here, "v9"), f"data.version: there is no tag, branch or commit 'v9' in {root}; check"),
        (lambda: _count(afar, "v9"), f"there is no tag, branch or commit 'v9' in file://{root}; write a tag"),
        (lambda: _count(str(outside), "v1"), "outside is no folder in a Git repository (not a git repository"),
        (lambda: _count(str(root), "v1"), "repository is no folder in a Git repository; name a folder inside of one"),
        (lambda: _count(f"git+file://{root}/no.git#subdirectory=a"), "data.source: Git can't read file://"),
    ]
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    cases.append((lambda: _count(here, "v1"), "needs the program dvc, which isn't installed; install it with"))
    for ask, line in cases:
        with pytest.raises(VitruvianError) as e:
            ask()
        assert line in str(e.value) and "\n" not in str(e.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match="needs the program git, which isn't installed"):
        _count(here, "v1")


def test_a_git_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_SECONDS_TO_LIST", 1.0)
    monkeypatch.setattr(versions, "_IMPATIENTLY", {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "3"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"git+http://127.0.0.1:{silent.getsockname()[1]}/a.git#subdirectory=a"
        with pytest.raises(
            DataError, match=r"data\.source: Git can't read .* \(no answer within 1 s\); check the addr"
        ):
            versions.pinned(Data(source=source))
        # Git itself gives up, too: DVC calls it.
        monkeypatch.setattr(versions, "_SECONDS_TO_LIST", 60.0)
        began = time.monotonic()
        with pytest.raises(DataError, match=r"Git can't read .*Operation too slow"):
            versions.pinned(Data(source=source))
        assert time.monotonic() - began < 30


def test_ssh_asks_nobody_unless_somebody_says_how_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\nexit 1\n')
    shutil.copy(ssh, tmp_path / "mine")
    for each in (ssh, tmp_path / "mine"):
        each.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in ("GIT_SSH", "GIT_SSH_COMMAND"):
        monkeypatch.delenv(name, raising=False)

    def said() -> str:
        (tmp_path / "said").unlink(missing_ok=True)
        with pytest.raises(DataError, match="Git can't read"):
            versions.pinned(Data(source="git+ssh://git@studio.example/a.git#subdirectory=a"))
        return (tmp_path / "said").read_text()

    assert "-oBatchMode=yes -oConnectTimeout=10" in said()
    monkeypatch.setenv("GIT_SSH_COMMAND", str(tmp_path / "mine"))
    assert "BatchMode" not in said()
    monkeypatch.delenv("GIT_SSH_COMMAND")
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / ".gitconfig").write_text(f'[core]\nsshCommand = "{tmp_path / "mine"}"\n')
    assert "BatchMode" not in said()


def test_a_repository_without_commits_is_said_to_have_none(tmp_path: Path) -> None:
    _do(tmp_path, "git init -q empty")
    with pytest.raises(SpecError, match=r"data\.source: file://.*/empty has no commit yet; push one, or name another"):
        versions.pinned(Data(source=f"git+file://{tmp_path}/empty#subdirectory=a"))


@pytest.mark.parametrize(
    ("source", "version", "line"),
    [
        ("s3://studio/yoga", "v1", "version v1 means a commit of a Git repository, and s3://studio/yoga lies in none"),
        ("synthetic://poses", "v1", "version v1 means a commit"),
        ("git+https://github.com/studio/poses.git", None, "#subdirectory=FOLDER"),
        ("git+https://github.com/studio/poses.git@v1#subdirectory=a", None, "a revision into data.version"),
        ("git+https://me:secret@github.com/poses.git#subdirectory=a", None, "holds a password"),
        ("git+ext::sh -c date#subdirectory=a", None, "is no address of data"),
        ("git+https://github.com/poses.git#subdirectory=../a", None, "is no address of data"),
        ("data", "--upload-pack=date", "pattern"),
    ],
)
def test_what_names_no_version_is_refused_before_anything_runs(source: str, version: str | None, line: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(line)):
        Data(source=source, version=version)
