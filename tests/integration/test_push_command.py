"""`vitruvian push` as people run it, to a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.bundles import make_bundle
from tests.hubs import Hub, Repository, hub
from tests.ports import free_port
from vitruvian.bundle import CHECKSUMS, open_bundle

COMMAND = [sys.executable, "-c", "from vitruvian.cli import main; main()", "push"]


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub() as it:
        yield it


def _push(
    there: Hub, home: Path, *words: str, command: Sequence[str] = COMMAND, **env: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return subprocess.run(
        [*command, *words],
        env={**kept, **there.settings(home), "COLUMNS": "300", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _files(folder: Path) -> dict[str, bytes]:
    listed = json.loads((folder / CHECKSUMS).read_text())["files"]
    return {name: (folder / name).read_bytes() for name in (*listed, CHECKSUMS)}


def test_the_champion_arrives_whole_as_one_commit_and_only_once(there: Hub, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, measured=True)
    (bundle.folder / "notes.txt").write_text("nobody checked me")
    told = []
    for _ in range(2):
        done = _push(there, tmp_path / "home", str(tmp_path / "store"), "studio/yoga")
        assert (done.returncode, done.stderr) == (0, "")
        told.append(done.stdout)
    assert told == [
        f"yoga version v1 is at {there.url}/studio/yoga\n",
        f"yoga version v1 is already at {there.url}/studio/yoga\n",
    ]
    arrived = there.repositories["studio/yoga"]
    assert not arrived.private
    assert arrived.messages == ["yoga version v1"]
    assert len(arrived.branches["main"]) == 2
    assert arrived.branches["main"][-1] == {".gitattributes": b"", **_files(bundle.folder)}
    # Large files go beside the commit, each once.
    large = [name for name in _files(bundle.folder) if name.endswith((".onnx", ".png"))]
    assert len([each for each in there.requests if each.startswith("PUT /large/")]) == len(large) == len(there.large)


def test_what_arrived_is_a_bundle(there: Hub, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, measured=True)
    assert _push(there, tmp_path / "home", str(bundle.folder), "studio/yoga").returncode == 0
    cloned = tmp_path / "cloned"
    for name, content in there.repositories["studio/yoga"].branches["main"][-1].items():
        (cloned / name).parent.mkdir(parents=True, exist_ok=True)
        (cloned / name).write_bytes(content)
    assert open_bundle(cloned).digest == bundle.digest
    told = ModelCard.load(cloned / "README.md").data
    assert (told.pipeline_tag, told.license) == ("image-classification", None)
    assert "vitruvian" in told.tags
    assert {(each.metric_type, each.metric_value) for each in told.eval_results} == {
        (name, round(value, 4)) for name, value in bundle.info.metrics.items()
    }


def test_another_version_takes_the_place_of_the_first_and_nothing_else(there: Hub, tmp_path: Path) -> None:
    first, second = make_bundle(tmp_path / "1"), make_bundle(tmp_path / "2", "heatmap", version="v2")
    assert _push(there, tmp_path / "home", str(first.folder), "studio/yoga").returncode == 0
    arrived = there.repositories["studio/yoga"]
    arrived.branches["main"].append({**arrived.branches["main"][-1], "LICENSE": b"MIT"})
    done = _push(there, tmp_path / "home", str(second.folder), "studio/yoga")
    assert (done.returncode, done.stderr) == (0, "")
    assert "golden.png" in arrived.branches["main"][1]
    assert arrived.branches["main"][-1] == {".gitattributes": b"", "LICENSE": b"MIT", **_files(second.folder)}


def test_a_branch_and_privacy_are_as_asked(there: Hub, tmp_path: Path) -> None:
    make_bundle(tmp_path)
    words = (str(tmp_path / "store"), "studio/yoga", "--private", "--revision", "release/1")
    for already in ("", " already"):
        done = _push(there, tmp_path / "home", *words)
        assert done.stdout == f"yoga version v1 is{already} at {there.url}/studio/yoga/tree/release/1\n", done.stderr
    arrived = there.repositories["studio/yoga"]
    assert arrived.private
    assert [len(commits) for commits in (arrived.branches["main"], arrived.branches["release/1"])] == [1, 2]
    # What everybody sees doesn't become private by a flag: it is refused before a byte is sent.
    arrived.private = False
    done = _push(there, tmp_path / "home", str(tmp_path / "store"), "studio/yoga", "--private")
    assert done.returncode == 1 and "is a public repository" in done.stderr and len(arrived.branches["main"]) == 1


def test_what_goes_wrong_is_one_line(there: Hub, tmp_path: Path) -> None:
    make_bundle(tmp_path)
    home, store = tmp_path / "home", str(tmp_path / "store")
    host = there.url.removeprefix("http://")
    for repository, env, line in (
        ("studio/yoga", {"HF_TOKEN": ""}, f"{host}/studio/yoga: there is no token for the hub; run 'hf auth login'"),
        ("studio/yoga", {"HF_TOKEN": "hf_old"}, "the hub doesn't know this token (Invalid credentials"),
        ("stduio/yoga", {}, "(You don't have the rights to create a model under the namespace"),
        ("stduio/yoga", {}, "check that there is an owner 'stduio', and that the token may write there"),
        ("studio/yoga", {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"}, "the hub can't be reached (ConnectError)"),
        ("studio/yoga", {"HF_HUB_OFFLINE": "1"}, "it is set to offline; unset HF_HUB_OFFLINE"),
        ("yoga", {}, "yoga: is not the name of a repository; write OWNER/NAME"),
        ("studio/yo..ga", {}, "studio/yo..ga: is not the name of a repository (Cannot have -- or .. in repo_id"),
    ):
        done = _push(there, home, store, repository, **env)
        assert done.returncode == 1, done.stderr
        assert line in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
    assert not there.repositories


def test_a_broken_bundle_and_somebody_elses_commit_are_refused(there: Hub, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    there.meanwhile = True
    done = _push(there, tmp_path / "home", str(bundle.folder), "studio/yoga")
    assert "somebody else has committed meanwhile; run the command again" in done.stderr and done.returncode == 1
    assert done.stderr.count("\n") == 1
    there.repositories.clear()
    (bundle.folder / "exports/model.onnx").write_bytes(b"another")
    done = _push(there, tmp_path / "home", str(bundle.folder), "studio/yoga")
    assert done.returncode == 1 and "exports/model.onnx" in done.stderr and not there.repositories


IN_A_HURRY = [
    sys.executable,
    "-c",
    "from vitruvian import hub; hub._SECONDS_OF_SILENCE = 1.0; from vitruvian.cli import main; main()",
    "push",
]


@pytest.mark.parametrize(
    "word", ["repos/create", "revision", "resolve", "preupload", "objects/batch", "/large/", "/commit/"]
)
def test_a_hub_that_says_nothing_is_given_up(word: str, there: Hub, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    if word == "resolve":
        there.repositories["studio/yoga"] = Repository(False, {"main": [{CHECKSUMS: b"{}"}]})
    there.instead[word] = None
    began = time.monotonic()
    done = _push(there, tmp_path / "home", str(bundle.folder), "studio/yoga", command=IN_A_HURRY)
    assert done.returncode == 1 and time.monotonic() - began < 30
    assert "the hub can't be reached (nothing was heard for 1 s); check the network" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and len([each for each in there.requests if word in each]) <= 5


SHAPES = {
    "repos/create": [(200, b"{}"), (409, b"[]"), (200, b"null"), (409, b'"x"'), (200, b"<html>"), (200, b"")],
    "revision": [(200, b"{}"), (200, b"[]"), (200, b"null"), (200, b'{"id": "studio/yoga", "siblings": 5}')],
    "preupload": [(200, b"[]"), (200, b'{"files": []}'), (200, b"[" * 100_000)],
    "objects/batch": [(200, b"{}"), (200, b"[]")],
    "/commit/": [(200, b"{}"), (200, b"[]")],
}


@pytest.mark.parametrize(
    ("word", "status", "body"), [(word, *each) for word, answers in SHAPES.items() for each in answers]
)
def test_what_is_no_hub_is_one_line(word: str, status: int, body: bytes, there: Hub, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    there.instead[word] = (status, body)
    done = _push(there, tmp_path / "home", str(bundle.folder), "studio/yoga")
    line = f"✗ {there.url.removeprefix('http://')}/studio/yoga: what answers there is no hub; check HF_ENDPOINT\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}"])
def test_a_hub_that_fails_to_give_the_bundle_that_is_there_is_one_line(body: bytes, there: Hub, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    there.repositories["studio/yoga"] = Repository(False, {"main": [{CHECKSUMS: b"{}"}]})
    there.instead["resolve"] = (503, body)
    done = _push(there, tmp_path / "home", str(bundle.folder), "studio/yoga")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the hub can't do it now (" in done.stderr and "run the command again later" in done.stderr
