"""Several processes behind one port: a parent that serves nothing starts them, watches them and ends them.

Children are forked, so that they share what the parent has loaded: keep it without threads. Each accepts connections
only once it is ready. What the children count is added up in files of theirs in a folder of the parent's.
"""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitruvian.errors import VitruvianError

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""What prometheus_client looks at when it is first imported: with it counters lie in files."""
_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_SECONDS_BETWEEN_LOOKS = 0.5
_SILENT_SECONDS = 30.0
"""A child whose event loop was silent for so long hangs."""
_LEAST_LIFE = 5.0
"""A child that lived shorter waits before it is started again."""
_LONGEST_WAIT = 30.0
_SLOT = struct.Struct("dd")


class Board:
    """What the processes tell each other: when each was last alive, and whether it is ready."""

    def __init__(self, count: int) -> None:
        self._shared = mmap.mmap(-1, count * _SLOT.size + 1)
        self.count = count

    def beat(self, slot: int, ready: bool) -> None:
        """Tell that a child is alive."""
        _SLOT.pack_into(self._shared, slot * _SLOT.size, time.monotonic(), float(ready))

    def clear(self, slot: int) -> None:
        """Tell that there is no child."""
        _SLOT.pack_into(self._shared, slot * _SLOT.size, 0.0, 0.0)

    def seen(self, slot: int) -> float:
        """Return when a child was alive last, in monotonic seconds; 0 for none."""
        return float(_SLOT.unpack_from(self._shared, slot * _SLOT.size)[0])

    def end(self) -> None:
        """Tell that all of them end."""
        self._shared[-1] = 1

    @property
    def ends(self) -> bool:
        """Whether all of them end, not just one."""
        return bool(self._shared[-1])

    @property
    def ready(self) -> int:
        """How many children are ready."""
        return sum(bool(_SLOT.unpack_from(self._shared, slot * _SLOT.size)[1]) for slot in range(self.count))


@dataclass
class _Child:
    slot: int
    pid: int = 0
    began: float = 0.0
    short_lives: int = 0
    again: float = 0.0
    """When it is started again, in monotonic seconds."""


def prepare_metrics() -> Path:
    """Make the folder where children count, and have prometheus_client use it; call it before that is imported."""
    assert "prometheus_client" not in sys.modules
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="vitruvian-metrics-", dir=memory if os.access(memory, os.W_OK) else None)
    os.environ[METRICS_FOLDER] = folder
    return Path(folder)


def run(count: int, work: Callable[[int, Board], int], *, linger: float, drain: float, tell: Callable[[], None]) -> int:
    """Run `work` in so many processes until SIGTERM or Ctrl-C; return the exit code.

    `work` is given its number and the board, to beat on, and returns a process's exit code; a process that ends is
    started again, unless it ends before it was ever ready. `tell` is called once all are ready.
    """
    board = Board(count)
    children = [_Child(slot) for slot in range(count)]
    told = ever_ready = False
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    try:
        while True:
            now = time.monotonic()
            for child in children:
                if not child.pid and now >= child.again:
                    _start(child, work, board)
            heard = signal.sigtimedwait(_HEARD, _SECONDS_BETWEEN_LOOKS)
            if heard is not None and heard.si_signo in (signal.SIGTERM, signal.SIGINT):
                board.end()
                print(f"ends: {count} processes answer what they have taken within {drain:g} s", file=sys.stderr)
                code = _end(children, heard.si_signo, linger + drain + 5)
                print("has ended", file=sys.stderr, flush=True)
                return code
            for child, code in _ended(children):
                board.clear(child.slot)
                if code > 0 and not ever_ready:
                    # It has told why.
                    _end(children, signal.SIGTERM, drain)
                    return code
                _wait_longer(child, code)
            _look(children, board)
            ever_ready = ever_ready or board.ready > 0
            if not told and board.ready == count:
                told = True
                tell()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        shutil.rmtree(os.environ.get(METRICS_FOLDER, ""), ignore_errors=True)


def _start(child: _Child, work: Callable[[int, Board], int], board: Board) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        child.pid, child.began = pid, time.monotonic()
        return
    code = 1
    try:
        for heard in _HEARD:
            signal.signal(heard, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        code = work(child.slot, board)
    except VitruvianError as e:
        print(f"process {child.slot}: {e}", file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing of the parent's is to run on the way out.
        os._exit(code)


def _ended(children: list[_Child]) -> list[tuple[_Child, int]]:
    """Return the children that have ended, with their exit codes; whatever else ended is let go."""
    found: list[tuple[_Child, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        for child in children:
            if child.pid == pid:
                child.pid = 0
                _forget(pid)
                found.append((child, os.waitstatus_to_exitcode(status)))


def _forget(pid: int) -> None:
    """Have gauges of a dead process count no more; what it counted stays."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _wait_longer(child: _Child, code: int) -> None:
    now = time.monotonic()
    # One that ended in order was asked to; one that failed soon after its start is likely to fail again.
    child.short_lives = child.short_lives + 1 if code and now - child.began < _LEAST_LIFE else 0
    wait = min(_LONGEST_WAIT, 0.1 * 2**child.short_lives) if child.short_lives else 0.0
    child.again = now + wait
    print(f"process {child.slot} ended with {code}; it is started again", file=sys.stderr, flush=True)


def _look(children: list[_Child], board: Board) -> None:
    """Kill who hangs."""
    now = time.monotonic()
    for child in children:
        seen = board.seen(child.slot)
        if not child.pid or not seen:
            continue
        if now - seen > _SILENT_SECONDS:
            print(
                f"process {child.slot} hasn't moved for {now - seen:.0f} s; it is killed", file=sys.stderr, flush=True
            )
            os.kill(child.pid, signal.SIGKILL)
            board.beat(child.slot, False)


def _end(children: list[_Child], signum: int, seconds: float) -> int:
    """End all children, by force after so many seconds; return 0 if all could end by themselves."""
    worst = 0
    for child in children:
        if child.pid:
            os.kill(child.pid, signum)
    until = time.monotonic() + seconds
    while any(child.pid for child in children):
        for _, code in _ended(children):
            # One that a signal ended had hung, or was killed by somebody else: it owes nobody an answer any more.
            worst = max(worst, code)
        if time.monotonic() > until:
            worst = 1
            for child in children:
                if child.pid:
                    os.kill(child.pid, signal.SIGKILL)
            until += seconds
        heard = signal.sigtimedwait(_HEARD, 0.05)
        if heard is not None and heard.si_signo in (signal.SIGTERM, signal.SIGINT):
            # Whoever asks twice doesn't want to wait.
            for child in children:
                if child.pid:
                    os.kill(child.pid, heard.si_signo)
    return worst
