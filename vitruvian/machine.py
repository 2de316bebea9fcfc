"""What this machine, or the container on it, has to offer."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Of sys/mman.h.
_MADV_DONTNEED = 4
_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(cgroups: Path = _CGROUPS) -> int:
    """Return how many threads can really run at once: the affinity, cut to the cgroup's quota (version 1 or 2).

    VITRUVIAN_CPUS, where it is set, cuts it further: a container may have less reserved than its node has.
    """
    quotas = [_quota_v2(cgroups / "cpu.max"), _quota_v1(cgroups / "cpu"), _quota_v1(cgroups / "cpu,cpuacct")]
    reserved = os.environ.get("VITRUVIAN_CPUS", "")
    limits = [quota for quota in quotas if quota is not None] + ([int(reserved)] if reserved.isdecimal() else [])
    return max(1, int(min(len(os.sched_getaffinity(0)), *limits, 1 << 16)))


def _quota_v2(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


def keep_small_memory() -> None:
    """Have the C library keep freed memory that is soon asked for again, as bodies of requests are; pictures go back.

    By default each body of more than 128 KiB is mapped and unmapped, which costs more than all else that is done with
    it. A C library without the settings goes on as it is.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def let_go(path: Path) -> None:
    """Have the system take back what a file that is mapped to be read holds in memory; what is needed is read again."""
    with suppress(OSError, AttributeError):
        library, name = ctypes.CDLL(None), str(path.resolve())
        for line in Path("/proc/self/maps").read_text().splitlines():
            area, rights, *_, mapped = line.split(maxsplit=5) if line.count(" ") > 5 else ("", "", "")
            if mapped == name and rights in ("r--p", "r--s"):
                begin, end = (int(edge, 16) for edge in area.split("-"))
                library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def cpu_model() -> str:
    """Return what the CPU calls itself; empty where the system doesn't tell."""
    return _cpu_info().get("model name", "")


def cpu_features() -> tuple[str, ...]:
    """Return which of the instructions that speed up models the CPU has."""
    has = set(_cpu_info().get("flags", "").split())
    return tuple(name for name in _FEATURES if name in has)


def _cpu_info() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def usable_memory(cgroups: Path = _CGROUPS) -> int:
    """Return the bytes of memory that processes here can have: the machine's, cut to the cgroup's limit."""
    limits = [_limit(cgroups / "memory.max"), _limit(cgroups / "memory" / "memory.limit_in_bytes")]
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([there, *(limit for limit in limits if limit is not None)])


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # 'max' where there is no limit.
        return None
