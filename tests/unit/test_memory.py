"""What a process holds in memory without needing it goes back to the system."""

from __future__ import annotations

import mmap
from pathlib import Path

from vitruvian.machine import let_go

SIZE = 8 << 20


def _resident(path: Path) -> int:
    """Return the bytes of a mapped file that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(str(path)):
            return next(1024 * int(other.split()[1]) for other in lines if other.startswith("Rss:"))
    return 0


def test_what_a_mapped_file_holds_is_given_back_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"w" * SIZE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:].count(b"w") == SIZE
        assert _resident(path) == SIZE
        let_go(path)
        assert _resident(path) == 0
        assert mapped[:].count(b"w") == SIZE


def test_a_file_that_is_not_mapped_is_left_alone(tmp_path: Path) -> None:
    let_go(tmp_path / "nothing")
