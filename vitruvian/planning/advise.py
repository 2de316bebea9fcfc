"""Whether a setting fits a device, and what is nearest to it that does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from vitruvian.errors import VitruvianError
from vitruvian.planning.devices import Device
from vitruvian.planning.memory import Setting, needed
from vitruvian.training.counts import Counts

_MOST_WORKERS = 64


class DoesNotFit(VitruvianError):
    """A training that needs more memory than its device has."""

    exit_code = 4


def gib(size: float) -> str:
    """Return bytes as people read them."""
    for unit, big in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= big:
            return f"{size / big:.0f} {unit}" if size >= 100 * big else f"{size / big:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"


def check(counts: Counts, setting: Setting, device: Device, others: Iterable[Device] = ()) -> None:
    """Raise `DoesNotFit` with the nearest settings that fit where this one doesn't."""
    need = needed(counts, setting, device.kind).total
    if need <= device.memory:
        return
    ways = [*nearest(counts, setting, device), *_larger(counts, setting, device, others)]
    hint = "; or ".join(ways or ["choose a smaller model"])
    has = "a worker's share of this machine" if device.is_cpu else f"{_article(device.name)} {device.name}"
    what = f"training needs {gib(need)} per worker, {has} has {gib(device.memory)}"
    raise DoesNotFit(what, where=f"strategy {setting.strategy}", hint=hint)


def nearest(counts: Counts, setting: Setting, device: Device) -> Iterator[str]:
    """Yield, each as words, changes of one thing that make a training fit: first what computes the same steps."""
    kind = device.kind
    for parts in range(setting.accumulate + 1, setting.batch // setting.workers + 1):
        if (total := needed(counts, replace(setting, accumulate=parts), kind).total) <= device.memory:
            yield f"accumulate: {parts} fits with {gib(total)}"
            break
    # Only layers that repeat are computed again.
    if counts.repeats and not setting.recomputes:
        other = replace(setting, recomputes=True)
        if (total := needed(counts, other, kind).total) <= device.memory:
            yield f"activationCheckpointing: true fits with {gib(total)}, and computes a third more"
    if device.is_cpu and setting.strategy != "fsdp":
        tried = [replace(setting, strategy="fsdp")] if setting.workers > 1 else []
    elif device.is_cpu:
        tried = []
    else:
        first = setting.workers if setting.strategy != "fsdp" and setting.workers > 1 else 2 * setting.workers
        most = setting.batch // setting.accumulate
        tried = [replace(setting, strategy="fsdp", workers=number) for number in _doubled(first, most)]
    for other in tried:
        if (total := needed(counts, other, kind).total) <= device.memory:
            yield f"strategy: fsdp with {other.workers} workers fits with {gib(total)}"
            break
    else:
        if not device.is_cpu and not setting.offloads and setting.workers > 1:
            other = replace(setting, strategy="fsdp", offloads=True)
            if (total := needed(counts, other, kind).total) <= device.memory:
                yield f"strategy: fsdp with cpuOffload: true fits with {gib(total)}"
    smaller = setting.batch // 2
    while smaller >= setting.workers * setting.accumulate:
        if (total := needed(counts, replace(setting, batch=smaller), kind).total) <= device.memory:
            yield f"batchSize: {smaller} fits with {gib(total)}"
            break
        smaller //= 2


def _doubled(first: int, most: int) -> Iterator[int]:
    number = first
    while number <= min(most, _MOST_WORKERS):
        yield number
        number *= 2


def _larger(counts: Counts, setting: Setting, device: Device, others: Iterable[Device]) -> Iterator[str]:
    for other in sorted(others, key=lambda each: (each.memory, each.name)):
        if device.memory < other.memory and needed(counts, setting, other.kind).total <= other.memory:
            yield f"{_article(other.name)} {other.name} has {gib(other.memory)}"
            return


def _article(name: str) -> str:
    return "an" if name[0] in "ahl" else "a"
