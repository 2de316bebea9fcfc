"""`vitruvian search` as people run it, on pictures in S3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.bundles import make_bundle, picture
from tests.stores import BUCKET, Faulty, moto
from vitruvian.store import open_store

COMMAND = [sys.executable, "-c", "from vitruvian.cli import main; main()", "search"]


@pytest.fixture(scope="module")
def faulty() -> Iterator[Faulty]:
    with moto() as server, pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patched.delenv(name)
        for name, value in server.settings().items():
            patched.setenv(name, value)
        boto3.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)
        assert server.faulty is not None
        yield server.faulty


def _search(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "300", "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*COMMAND, *words], env=env, capture_output=True, text=True, timeout=120, check=False)


def test_pictures_in_s3_are_read_once_and_found_by_words(faulty: Faulty, tmp_path: Path) -> None:
    make_bundle(tmp_path, clip=True)
    source = open_store(f"s3://{BUCKET}/some pictures")
    for colour in ("red", "green", "yellow"):
        source.put(f"{colour}/1.png", picture(colour, (20, 20)))
    words = (str(tmp_path / "store"), source.url, "yellow", "green", "--top", "1")
    told = []
    for reads in (3, 0, 1):
        if reads == 1:
            source.put("red/1.png", picture("white", (20, 20)))
        faulty.requests.clear()
        done = _search(tmp_path / "home", *words)
        assert (done.returncode, done.stderr) == (0, "")
        # Beside the listing.
        assert faulty.requests.count("GET") == reads + 1
        told.append(done.stdout)
    assert told[0] == told[1] == told[2]
    lines = told[0].splitlines()
    assert [lines[0], lines[2]] == ["yellow", "green"]
    assert lines[1].endswith(f"{source.url}/yellow/1.png") and lines[3].endswith(f"{source.url}/green/1.png")


def test_a_bundle_that_knows_no_words_ends_in_one_line(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / "a.png").write_bytes(picture("red"))
    done = _search(tmp_path / "home", str(tmp_path / "store"), str(tmp_path), "red")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "it has no text tower" in line
