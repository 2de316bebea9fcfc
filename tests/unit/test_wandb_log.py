"""How far a run has come is read from W&B's own files, whatever has happened to them."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb", reason="needs wandb: pip install '.[track]'")

from vitruvian.training.wandb_log import reached, records, rows

AXES = ("epoch", "step")


def log(*logged: dict[str, Any]) -> bytes:
    """Return a log as W&B writes it: pieces of blocks of 32,768 bytes, each with its checksum."""
    from wandb.proto.wandb_internal_pb2 import Record

    written = b":W&B\xe1\xbe\x00"
    for values in logged:
        record = Record()
        for name, value in values.items():
            item = record.history.item.add()
            item.key, item.value_json = name, value if isinstance(value, str) else json.dumps(value)
        left, first = record.SerializeToString(), True
        while left or first:
            room = 32768 - len(written) % 32768
            if room < 7:
                written += bytes(room)
                continue
            piece, left = left[: room - 7], left[room - 7 :]
            kind = (1 if first else 4) if not left else (2 if first else 3)
            written += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
    return written


def kept(folder: Path, content: bytes, name: str = "offline-run-1-poses-1") -> Path:
    path = folder / name / "run-poses-1.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_what_all_processes_of_a_run_kept_counts(tmp_path: Path) -> None:
    kept(tmp_path, log({"epoch": 1, "loss": 0.5}, {"step": 7}))
    kept(tmp_path, log({"epoch": 2}, {"step": 5}), "offline-run-2-poses-1")
    kept(tmp_path, log({"epoch": 9}), "offline-run-2-poses-2")
    assert reached(tmp_path, "poses-1", AXES) == {"epoch": 2, "step": 7}


def test_records_go_over_the_borders_of_blocks(tmp_path: Path) -> None:
    logged: list[dict[str, Any]] = [{"epoch": number, "text": ["x" * 30_000]} for number in range(1, 9)]
    logged.append({"epoch": 9, "text": ["y" * 100_000]})
    assert list(rows(records(kept(tmp_path, log(*logged))))) == logged


@pytest.mark.parametrize("lost", range(1, 40, 5))
def test_a_log_counts_up_to_what_is_damaged(tmp_path: Path, lost: int) -> None:
    whole = log({"epoch": 1}, {"epoch": 2})
    kept(tmp_path, whole[:-lost])
    flipped = bytearray(whole)
    flipped[-lost] ^= 0xFF
    kept(tmp_path, bytes(flipped), "offline-run-2-poses-1")
    assert reached(tmp_path, "poses-1", AXES).get("epoch", 0) in (0, 1)


@pytest.mark.parametrize("value", ['"2"', "null", "[1]", "true", "NaN", "Infinity", "9" * 5000, "[" * 100_000, "{"])
def test_what_is_no_number_counts_for_nothing(tmp_path: Path, value: str) -> None:
    kept(tmp_path, log({"step": 3}, {"epoch": value}))
    assert reached(tmp_path, "poses-1", AXES) == {"step": 3}


def test_a_folder_in_a_logs_place_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "offline-run-1-poses-1" / "run-poses-1.wandb").mkdir(parents=True)
    assert reached(tmp_path, "poses-1", AXES) == {}
