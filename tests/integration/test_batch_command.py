"""`vitruvian predict --out` as people run it: killed at any moment, the same command leaves each file exactly once."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import boto3
import pytest
from pyarrow import parquet  # type: ignore[import-untyped]

from tests.bundles import make_bundle, picture
from tests.stores import BUCKET, moto
from vitruvian.store import Store, open_store

COLOURS = ("red", "green", "blue")
FORMATS = ("parquet", "csv", "jsonl")
COMMAND = [sys.executable, "-c", "from vitruvian.cli import main; main()", "predict"]
_numbers = count()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("bundle")
    make_bundle(root)
    return str(root / "store")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto() as server, pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patched.delenv(name)
        for name, value in server.settings().items():
            patched.setenv(name, value)
        boto3.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["folder", "s3"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, Store]:
    """Where the files are, and where the answers go."""
    root = f"{request.getfixturevalue('s3')}/{next(_numbers)}" if request.param == "s3" else str(tmp_path)
    return _fill(open_store(f"{root}/new files")), open_store(f"{root}/answers")


def _fill(source: Store, files: int = 30) -> Store:
    for index in range(files):
        source.put(f"{index % 4}/{index:03d}.png", picture(COLOURS[index % 3], (20, 20)))
    source.put("0/broken.png", b"no picture")
    source.put("notes.txt", b"no picture either")
    return source


def _start(bundle: str, source: Store, out: Store, *flags: str) -> subprocess.Popen[str]:
    command = [*COMMAND, bundle, source.url, "--out", out.url, *flags]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"},
        # Ctrl-C is heard even where these tests run in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _run(bundle: str, source: Store, out: Store, *flags: str) -> tuple[int | None, str, str]:
    with _start(bundle, source, out, *flags) as process:
        told, complained = process.communicate(timeout=300)
    return process.returncode, told, complained


def _wait(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)


def _parts(out: Store) -> dict[str, bytes]:
    return {entry.key: out.get(entry.key) for entry in out.list("part-")}


def _rows(parts: dict[str, bytes]) -> list[tuple[str, str | None, str | None]]:
    """Return path, label and error of every row of parts, in order."""
    found: list[tuple[str, str | None, str | None]] = []
    for name, content in sorted(parts.items()):
        if name.endswith(".parquet"):
            rows = parquet.read_table(io.BytesIO(content)).to_pylist()
        elif name.endswith(".csv"):
            rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        else:
            rows = [json.loads(line) for line in content.decode().splitlines()]
        found += [(row["path"], row["label"] or None, row["error"] or None) for row in rows]
    return found


def _check(source: Store, out: Store) -> None:
    rows = _rows(_parts(out))
    assert [path for path, _, _ in rows] == [entry.key for entry in source.list() if entry.key.endswith(".png")]
    labels = {path: label for path, label, _ in rows}
    assert labels.pop("0/broken.png") is None
    assert labels == {path: COLOURS[int(path[2:5]) % 3] for path in labels}
    ((broken, error),) = [(path, error) for path, _, error in rows if error]
    assert broken == "0/broken.png" and broken in error


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_command_goes_on_and_has_each_file_exactly_once(
    bundle: str, places: tuple[Store, Store], format: str
) -> None:
    source, out = places
    flags = ("--format", format, "--part", "3")
    moments: list[Callable[[], bool]] = [
        lambda: out.tag("_batch.json") is not None,
        lambda: len(_parts(out)) >= 2,
        lambda: len(_parts(out)) >= 5,
        lambda: len(_parts(out)) >= 11,
    ]
    kept: dict[str, str] = {}
    for moment in moments:
        with _start(bundle, source, out, *flags) as process:
            _wait(process, moment)
            process.kill()
        listed = {entry.key: entry.tag for entry in out.list("part-")}
        # What is written is never written again.
        assert kept.items() <= listed.items()
        kept = listed
    code, told, complained = _run(bundle, source, out, *flags)
    assert (code, complained) == (0, "")
    assert f"31 files are in {out.url}" in told
    assert kept.items() <= {entry.key: entry.tag for entry in out.list("part-")}.items()
    _check(source, out)
    assert out.tag("_SUCCESS") is not None
    # Once more, and nothing is left to do.
    before = {entry.key: entry.tag for entry in out.list("part-")}
    code, told, _ = _run(bundle, source, out, *flags)
    assert code == 0 and "31 files in 11 parts, 11 of them done before" in told
    assert before == {entry.key: entry.tag for entry in out.list("part-")}


def test_each_part_is_a_line_where_no_terminal_is(bundle: str, places: tuple[Store, Store]) -> None:
    source, out = places
    code, told, complained = _run(bundle, source, out, "--format", "jsonl", "--part", "20")
    assert (code, complained) == (0, "")
    assert told.splitlines() == [
        "31 files in 2 parts",
        "1 of 2 parts: 20 files",
        "2 of 2 parts: 31 files",
        f"31 files are in {out.url}",
        "1 of those predicted now can't be used: their rows say why",
    ]
    _check(source, out)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_command_that_is_asked_to_end_keeps_what_is_done_and_says_how_to_go_on(
    bundle: str, tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    source, out = _fill(open_store(tmp_path / "source"), 400), open_store(tmp_path / "out")
    flags = ("--format", "csv", "--part", "1")
    with _start(bundle, source, out, *flags) as process:
        _wait(process, lambda: any(out.list("part-")))
        process.send_signal(number)
        _, complained = process.communicate(timeout=60)
    assert process.returncode == code
    done = len(_parts(out))
    assert 1 <= done < 401
    (line,) = complained.splitlines()
    # The last one may have been written while the signal came.
    assert line in [
        f"✗ {word}: {parts} of 401 parts are in {out.url}, and stay; run the same command again to go on"
        for parts in (done - 1, done)
    ]
    assert _run(bundle, source, out, *flags)[0] == 0
    _check(source, out)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--out", "answers", "--csv", "a.csv"), "--csv: and --out exclude each other"),
        (("more", "--out", "answers"), "--out: takes one folder or s3:// prefix, not 2"),
        (("--part", "3"), "--format and --part: are for answers in parts; add --out ADDRESS"),
        (("--format", "csv"), "--format and --part: are for answers in parts; add --out ADDRESS"),
        (("s3://bucket/new",), "s3://bucket/new: is predicted in parts only; add --out ADDRESS"),
        (("--out", "source/answers"), "the answers can't go to where the files are"),
        (("--out", "source"), "the answers can't go to where the files are"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    bundle: str, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    _fill(open_store(tmp_path / "source"), 3)
    command = [*COMMAND, bundle, "source", *flags]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "COLUMNS": "300"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert not list((tmp_path / "source").glob("answers"))
