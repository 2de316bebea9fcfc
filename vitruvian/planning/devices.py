"""GPUs by name: what their makers and AWS say of them, and what it costs an hour."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vitruvian import spec
from vitruvian.errors import SpecError

Precision = Literal["fp32", "bf16", "fp16"]
PRICED = "us-east-1, Linux, on demand, as AWS listed them in June 2025"


@dataclass(frozen=True)
class Machine:
    """An instance of a cloud."""

    name: str
    gpus: int
    dollars: float
    """Of an hour."""
    network: float
    """Bytes a second to other machines, without bursts."""


@dataclass(frozen=True)
class Device:
    """What computes: a GPU, or one worker's part of this machine's CPU (then without machines)."""

    name: str
    memory: float
    """Bytes that torch gets to see: less than the round number in its name."""
    peak: Mapping[Precision, float]
    """Operations a second of dense matrices, in what it is built for."""
    bandwidth: float
    """Bytes a second of its memory."""
    link: float
    """Bytes a second to a neighbour in the same machine, in one direction."""
    machines: tuple[Machine, ...] = ()
    reached: tuple[float, float, float] | None = None
    """What share of its peak steps reached, from the most over the usual to the least; none: not measured."""

    @property
    def is_cpu(self) -> bool:
        return not self.machines

    @property
    def kind(self) -> str:
        """How its memory is counted."""
        return "cpu" if self.is_cpu else "gpu"

    def precision(self, asked: spec.Precision) -> Precision:
        """Return which of its peaks counts; what isn't built for bf16 is no faster with it."""
        wanted: tuple[Precision, ...] = ("bf16", "fp16") if asked == "auto" else (asked,)
        return next((precision for precision in wanted if precision in self.peak), "fp32")


_GIB = 2**30


def _gpu(
    name: str,
    memory: float,
    fp32: float,
    half: float,
    bandwidth: float,
    link: float,
    *machines: Machine,
    bf16: bool = True,
) -> tuple[str, Device]:
    peak: dict[Precision, float] = {"fp32": fp32 * 1e12, "fp16": half * 1e12}
    if bf16:
        peak["bf16"] = half * 1e12
    return name, Device(name, memory * _GIB, peak, bandwidth * 1e9, link * 1e9, machines)


def _machine(name: str, gpus: int, dollars: float, gigabits: float) -> Machine:
    return Machine(name, gpus, dollars, gigabits * 1e9 / 8)


# GiB seen by torch, TFLOP/s in float32 without tensor cores and in 16 bits with them, GB/s of memory and to a
# neighbour; whether it is built for bf16, too.
GPUS: dict[str, Device] = dict(
    (
        _gpu(
            *("t4", 14.6, 8.1, 65, 320, 8),
            *(_machine("g4dn.xlarge", 1, 0.526, 5), _machine("g4dn.12xlarge", 4, 3.912, 50)),
            bf16=False,
        ),
        _gpu(
            *("l4", 22.0, 30.3, 121, 300, 16),
            _machine("g6.xlarge", 1, 0.8048, 2.5),
            _machine("g6.12xlarge", 4, 4.6016, 40),
            _machine("g6.48xlarge", 8, 13.3504, 100),
        ),
        _gpu(
            *("a10g", 22.0, 31.2, 70, 600, 16),
            _machine("g5.xlarge", 1, 1.006, 2.5),
            _machine("g5.12xlarge", 4, 5.672, 40),
            _machine("g5.48xlarge", 8, 16.288, 100),
        ),
        _gpu("a100-40", 39.4, 19.5, 312, 1555, 300, _machine("p4d.24xlarge", 8, 21.9576, 400)),
        _gpu("a100-80", 79.2, 19.5, 312, 2039, 300, _machine("p4de.24xlarge", 8, 27.4471, 400)),
        _gpu(
            *("h100", 79.1, 67, 989, 3350, 450),
            *(_machine("p5.4xlarge", 1, 6.88, 50), _machine("p5.48xlarge", 8, 55.04, 3200)),
        ),
        _gpu("h200", 139.8, 67, 989, 4800, 450, _machine("p5en.48xlarge", 8, 63.296, 3200)),
    )
)
CPU = "cpu"
# Dollars an hour; what is more is no price of a machine.
_DEAREST = 1e6
# Between processes on one machine.
_LOOPBACK = 1e9
_CPU_BANDWIDTH = 20e9


def cpu(
    memory: float, flops: float | None, workers: int, reached: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Device:
    """Return one worker's share of this machine: bytes of memory, and what it was measured to do, if it was."""
    peak: dict[Precision, float] = {} if flops is None else {"fp32": flops / workers}
    return Device(CPU, memory / workers, peak, _CPU_BANDWIDTH / workers, _LOOPBACK, reached=reached)


def asked(text: str, workers: int) -> tuple[str, int]:
    """Read NAME or NAME:COUNT; without a count as many as there are workers. Raises `SpecError`."""
    name, colon, number = text.strip().lower().partition(":")
    names = [*GPUS, CPU]
    if name not in names:
        begun = [known for known in names if name and known.startswith(name)]
        near = begun or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise SpecError(f"'{name}' is no device known here", where="--gpus", hint=f"{hint}known: {', '.join(names)}")
    if not colon:
        return name, workers
    if not number.isdecimal() or len(number) > 4 or not 1 <= int(number) <= 4096:
        raise SpecError(f"'{number}' is no number of devices", where="--gpus", hint=f"write {name}:4, from 1 to 4096")
    return name, int(number)


def priced(file: Path | None) -> dict[str, Device]:
    """Return all GPUs, with the prices of a YAML file (instance: dollars an hour); raises `SpecError`."""
    if file is None:
        return GPUS
    known = {machine.name for device in GPUS.values() for machine in device.machines}
    prices = _prices(file)
    for name, price in prices.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), sorted(known), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"
            raise SpecError(f"'{name}' is no instance known here", where=file, hint=hint)
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price <= _DEAREST:
            raise SpecError(
                f"{name}: {spec.brief(price)} is no price", where=file, hint=f"write {name}: 1.25, dollars an hour"
            )

    def put(machine: Machine) -> Machine:
        return replace(machine, dollars=float(prices.get(machine.name, machine.dollars)))

    return {name: replace(device, machines=tuple(map(put, device.machines))) for name, device in GPUS.items()}


def _prices(file: Path) -> dict[Any, Any]:
    try:
        found = spec.documents(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError as e:
        raise SpecError("there is no such file", where=file, hint="write instance: dollars, a line each") from e
    except (OSError, UnicodeDecodeError) as e:
        reason = str(e).splitlines()[0]
        raise SpecError(f"can't be read ({reason})", where=file, hint="write instance: dollars, a line each") from e
    if len(found) != 1 or not isinstance(found[0], dict):
        raise SpecError("is no map of prices", where=file, hint="write instance: dollars, a line each")
    return found[0]
