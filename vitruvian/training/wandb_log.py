"""What W&B keeps of runs on disk: transaction logs, which its own package writes and doesn't read.

A log is LevelDB's (github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of 7 bytes, and each of its
records is a message of W&B's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

_HEADER: Final = 7
_BLOCK: Final = 32768
_PIECE: Final = struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path: Path) -> Iterator[Record]:
    """Yield a log's records; a process that was killed may have left half of the last one."""
    from wandb.proto.wandb_internal_pb2 import Record

    yield from map(Record.FromString, _messages(path.read_bytes()))


def rows(found: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """Yield the values that were logged together, in their order."""
    for record in found:
        if record.HasField("history"):
            yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}


def reached(folder: Path, run: str, axes: Iterable[str]) -> dict[str, float]:
    """Return how far a run has come along each axis in what all its processes kept in this folder."""
    found: dict[str, float] = {}
    for path in folder.glob(f"offline-run-*-{run}/*.wandb"):
        for row in rows(records(path)):
            found |= {axis: max(row[axis], found.get(axis, 0)) for axis in axes if axis in row}
    return found


def _messages(data: bytes) -> Iterator[bytes]:
    at, whole = _HEADER, b""
    while at + _PIECE.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _PIECE.size:
            at += left
            continue
        _, size, kind = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        if at + size > len(data):
            return
        whole = data[at : at + size] if kind in (_FULL, _FIRST) else whole + data[at : at + size]
        at += size
        if kind in (_FULL, _LAST):
            yield whole
