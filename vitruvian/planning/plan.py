"""All that a plan says, put together from counts and devices by arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vitruvian.planning import duration, memory
from vitruvian.planning.devices import Device, Machine, Precision
from vitruvian.planning.duration import Duration, Traffic, Work
from vitruvian.planning.memory import Memory, Setting
from vitruvian.spec import Strategy
from vitruvian.training.counts import Measured

STRATEGIES: tuple[Strategy, ...] = ("none", "ddp", "fsdp")


@dataclass(frozen=True)
class Examples:
    """What there is to learn from."""

    training: int
    validation: int
    classes: tuple[str, ...]
    known: str
    """How this is known."""


@dataclass(frozen=True)
class Offer:
    """A setting on a device: whether it fits, how long it takes and what it costs."""

    device: Device
    setting: Setting
    precision: Precision
    """Which of the device's peaks counts."""
    needs: float
    """Bytes of a worker."""
    machine: Machine | None
    machines: int
    durations: tuple[Duration, Duration, Duration] | None
    """At the highest, the usual and the lowest utilisation; None where nothing says how fast the device is."""
    epochs: int

    @property
    def fits(self) -> bool:
        return self.needs <= self.device.memory

    @property
    def seconds(self) -> tuple[float, float, float] | None:
        """Of all epochs, from the shortest to the longest."""
        if self.durations is None:
            return None
        fast, usual, slow = (self.epochs * each.epoch for each in self.durations)
        return fast, usual, slow

    @property
    def dollars(self) -> tuple[float, float, float] | None:
        """Of all epochs; None where nobody asks for money."""
        if self.seconds is None or self.machine is None:
            return None
        price = self.machines * self.machine.dollars / 3600
        fast, usual, slow = (price * each for each in self.seconds)
        return fast, usual, slow


@dataclass(frozen=True)
class Plan:
    """What a training would need."""

    name: str
    architecture: str
    examples: Examples
    work: Work
    chosen: Offer
    memories: Mapping[Strategy, tuple[Setting, Memory]]
    others: tuple[Offer, ...]
    """The same setting on every GPU that is known."""
    traffic: Traffic
    measured: Measured | None
    remarks: tuple[str, ...] = ()


def offer(work: Work, setting: Setting, device: Device) -> Offer:
    """Return a setting on a device, on those of its machines that it costs least on."""
    needs = memory.needed(work.counts, setting, device.kind).total
    precision = device.precision(work.precision)
    offers = []
    for machine in device.machines or (None,):
        number = math.ceil(setting.workers / machine.gpus) if machine else 1
        shares = device.reached or tuple(reversed(duration.UTILISATION[precision]))
        known = precision in device.peak
        fast, usual, slow = (
            (duration.duration(work, setting, device, machine, share) if known else None) for share in shares
        )
        durations = (fast, usual, slow) if fast and usual and slow else None
        offers.append(Offer(device, setting, precision, needs, machine, number, durations, work.epochs))
    return min(offers, key=lambda each: (each.dollars[1] if each.dollars else 0.0, each.machines))


def memories(work: Work, setting: Setting, device: Device) -> dict[Strategy, tuple[Setting, Memory]]:
    """Return what a worker needs with each strategy: alone, or shared by as many workers (of one, two)."""
    found: dict[Strategy, tuple[Setting, Memory]] = {}
    for strategy in STRATEGIES:
        workers = 1 if strategy == "none" else max(2, setting.workers)
        one = replace(setting, strategy=strategy, workers=workers)
        found[strategy] = one, memory.needed(work.counts, one, device.kind)
    return found


def make(
    name: str,
    architecture: str,
    examples: Examples,
    work: Work,
    setting: Setting,
    device: Device,
    gpus: Mapping[str, Device],
    measured: Measured | None,
    remarks: tuple[str, ...] = (),
) -> Plan:
    """Return the plan of a setting on a device."""
    return Plan(
        name=name,
        architecture=architecture,
        examples=examples,
        work=work,
        chosen=offer(work, setting, device),
        memories=memories(work, setting, device),
        others=tuple(offer(work, setting, other) for other in gpus.values()),
        traffic=duration.traffic(work, setting),
        measured=measured,
        remarks=remarks,
    )
