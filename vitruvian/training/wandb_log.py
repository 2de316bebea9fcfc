"""What W&B keeps of runs on disk: transaction logs, which its own package writes and doesn't read.

A log is LevelDB's (github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of 7 bytes, and each of its
records is a message of W&B's.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

_HEADER: Final = 7
_BLOCK: Final = 32768
_PIECE: Final = struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path: Path) -> Iterator[Record]:
    """Yield a log's records up to the first that is damaged: a process that was killed may have left half of one."""
    from wandb.proto.wandb_internal_pb2 import Record

    yield from map(Record.FromString, _messages(path.read_bytes()))


def rows(found: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """Yield the values that were logged together, in their order."""
    for record in found:
        if record.HasField("history"):
            yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}


def reached(folder: Path, run: str, axes: Iterable[str]) -> dict[str, float]:
    """Return how far a run has come along each axis in what all its processes kept in this folder.

    What can't be read any more counts as not told.
    """
    found: dict[str, float] = {}
    for path in folder.glob(f"offline-run-*-{run}/*.wandb"):
        with contextlib.suppress(OSError, ValueError, LookupError, RecursionError, DecodeError):
            for row in rows(records(path)):
                found |= {axis: max(row[axis], found.get(axis, 0)) for axis in axes if _is_number(row.get(axis))}
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _messages(data: bytes) -> Iterator[bytes]:
    at, whole = _HEADER, b""
    while at + _PIECE.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _PIECE.size:
            at += left
            continue
        checksum, size, kind = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        piece = data[at : at + size]
        if len(piece) < size or zlib.crc32(bytes([kind]) + piece) != checksum:
            return
        whole = piece if kind in (_FULL, _FIRST) else whole + piece
        at += size
        if kind in (_FULL, _LAST):
            yield whole
