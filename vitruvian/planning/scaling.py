"""The model of memory and time from one GPU to many, as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vitruvian.planning import duration
from vitruvian.planning.advise import gib
from vitruvian.planning.devices import Device
from vitruvian.planning.duration import Work
from vitruvian.planning.memory import Setting, needed
from vitruvian.planning.plan import offer
from vitruvian.training.counts import Counts

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
EACH = 64


@dataclass(frozen=True)
class Row:
    """What so many GPUs do with `EACH` examples on each."""

    gpus: int
    machines: str
    images: float
    """A second, at the usual utilisation, once read."""
    efficiency: float
    """Of as many times what one GPU does."""
    ddp: float
    """Bytes of a worker."""
    fsdp: float
    dollars: float
    """Of a million images."""


def rows(counts: Counts, device: Device) -> Iterator[Row]:
    """Yield a row for each number of GPUs, trained with ddp."""
    work = Work(counts, training=10**6, validation=0, epochs=1, input_seconds=0.0)
    usual = duration.UTILISATION[device.precision(work.precision)][1]
    alone = 0.0
    for number in GPUS:
        setting = Setting("ddp", number, EACH * number)
        chosen = offer(work, setting, device)
        assert chosen.machine is not None
        step = duration.step(work, setting, device, chosen.machine, usual, reading=False).total
        images = setting.batch / step
        alone = alone or images
        shared = Setting("fsdp", number, setting.batch)
        yield Row(
            gpus=number,
            machines=f"{chosen.machines} x {chosen.machine.name}",
            images=images,
            efficiency=images / (number * alone),
            ddp=needed(counts, setting).total,
            fsdp=needed(counts, shared).total,
            dollars=chosen.machines * chosen.machine.dollars / 3600 * 1e6 / images,
        )


def page(models: Mapping[str, Counts], devices: Mapping[str, Device]) -> str:
    """Return the tables of some models on some GPUs."""
    parts = []
    for name, counts in models.items():
        done = counts.cost(Setting("ddp", 1, EACH).way("gpu"))
        work = (done.forward.at(EACH) + done.backward.at(EACH)) / EACH
        parts.append(
            f"\n## {name}\n\n{counts.values:,} parameters, {work / 1e9:.1f} GFLOP and "
            f"{gib(done.activations.at(EACH) / EACH)} of activations for each image (counted).\n"
        )
        for title, device in devices.items():
            parts.append(
                f"\n**{title}**\n\n| GPUs | machines | images/s | efficiency | ddp needs | fsdp needs "
                "| $ a million images |\n|---|---|---|---|---|---|---|\n"
            )
            for row in rows(counts, device):
                marks = [gib(size) + ("" if size <= device.memory else ", too much") for size in (row.ddp, row.fsdp)]
                parts.append(
                    f"| {row.gpus} | {row.machines} | {row.images:,.0f} | {row.efficiency:.0%} | {marks[0]} "
                    f"| {marks[1]} | {row.dollars:,.2f} |\n"
                )
    return "".join(parts)
