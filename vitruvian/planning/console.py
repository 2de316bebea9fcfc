"""A plan as people read it in a terminal, and as programs read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic.alias_generators import to_camel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitruvian.console import BETWEEN, fitting
from vitruvian.planning import duration, memory
from vitruvian.planning.advise import gib
from vitruvian.planning.devices import PRICED, Precision
from vitruvian.planning.memory import Memory
from vitruvian.planning.plan import Offer, Plan
from vitruvian.words import counted

_LINES = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "buckets": "ddp's buckets",
    "gathered": "fsdp's layers in use",
    "copies": "weights in 16 bits",
    "activations": "activations",
    "working": "passing tensors",
    "copy": "checkpoint's copy",
    "context": "context",
    "slack": "allocator's slack",
}
_MARK = ""
_NUMBERS = ("needs", "has", "time", "cost")
# In this order they are left out where there is no room for all.
_LEAST_NEEDED = ("peak", "has", "needs")
_PRECISIONS: dict[Precision, str] = {"bf16": "bf16", "fp16": "fp16", "fp32": "float32"}


def show(console: Console, plan: Plan) -> None:
    """Print a plan."""
    chosen, setting, counts = plan.chosen, plan.chosen.setting, plan.work.counts
    frozen = "" if counts.learning == counts.values else f", {counts.learning:,} of them learn"
    _line(console, f"[bold]{plan.name}[/]: {plan.architecture}, {counts.values:,} parameters{frozen}")
    found = plan.examples
    _line(
        console,
        f"{found.training:,} examples to train on, {found.validation:,} to validate, {len(found.classes)} classes "
        f"({escape(found.known)})",
    )
    workers = counted(setting.workers, "worker")
    each = f", {setting.examples} on each" if setting.workers > 1 else ""
    _line(
        console,
        f"planned: {escape(_place(chosen))}, strategy {setting.strategy}, {workers}, {setting.batch} examples a step"
        f"{each}",
    )
    for remark in plan.remarks:
        _line(console, f"[yellow]{escape(remark)}[/]")
    _memory(console, plan)
    if chosen.fits:
        _time(console, plan)
    _others(console, plan)
    _sources(console, plan)


def _memory(console: Console, plan: Plan) -> None:
    chosen = plan.chosen
    _line(console, "\n[bold]Memory of a worker[/]")
    table = _table()
    table.add_column("", no_wrap=True)
    for strategy, (setting, _) in plan.memories.items():
        table.add_column(f"{strategy}, {counted(setting.workers, 'worker')}", justify="right")
    made = [found for _, found in plan.memories.values()]
    for name, shown in _LINES.items():
        table.add_row(shown, *(_bytes(getattr(each, name)) for each in made))
    table.add_row("[bold]all[/]", *(_total(each, chosen) for each in made))
    console.print(table)
    has = "A worker's share of this machine" if chosen.device.is_cpu else f"The {chosen.device.name}"
    mark = "[green]✓[/] the plan fits" if chosen.fits else "[red]✗[/] the plan doesn't fit"
    _line(console, f"  {has} has {gib(chosen.device.memory)}: {mark}.")


def _total(needed: Memory, chosen: Offer) -> str:
    fits = needed.total <= chosen.device.memory
    return f"[bold]{gib(needed.total)}[/] {'[green]✓[/]' if fits else '[red]✗[/]'}"


def _bytes(size: float) -> str:
    return gib(size) if size else "-"


def _time(console: Console, plan: Plan) -> None:
    chosen, work = plan.chosen, plan.work
    _line(console, "\n[bold]Time and cost[/]")
    table = _table()
    for no_wrap in (True, True, False):
        table.add_column("", no_wrap=no_wrap)
    table.show_header = False
    if chosen.durations and chosen.seconds:
        fast, usual, slow = (each.epoch for each in chosen.durations)
        step, steps = chosen.durations[1].step, chosen.durations[1].steps
        parts = {
            "reading": step.reading,
            "computing": step.computing,
            "optimizer": step.optimizer,
            "waiting for others": step.waiting,
        }
        table.add_row(
            "a step",
            _seconds(step.total),
            ", ".join(f"{name} {_seconds(value)}" for name, value in parts.items() if value),
        )
        of_it = _joined(f"{counted(steps, 'step')}, validation, checkpoint", _range(fast, slow, _seconds))
        table.add_row("an epoch", _seconds(usual), of_it)
        low, middle, high = chosen.seconds
        table.add_row(counted(work.epochs, "epoch"), _seconds(middle), _range(low, high, _seconds))
    else:
        table.add_row("an epoch", "?", "--measure tells how fast this machine is")
    if chosen.dollars and chosen.machine:
        low, middle, high = chosen.dollars
        what = (
            f"{chosen.machines} x {chosen.machine.name}, {_dollars(chosen.machines * chosen.machine.dollars)} an hour"
        )
        table.add_row("cost", _dollars(middle), _joined(_range(low, high, _dollars), what))
    traffic = plan.traffic
    table.add_row("a checkpoint", gib(traffic.checkpoint), f"{gib(traffic.kept)} kept, {gib(traffic.written)} written")
    console.print(table)


def _range(low: float, high: float, shown: Callable[[float], str]) -> str:
    """Return a range in words, none where both of its ends read the same."""
    return "" if shown(low) == shown(high) else f"from {shown(low)} to {shown(high)}"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _speed(flops: float) -> str:
    speed = flops / 1e9
    # Small models reach little, and that is no 0.
    return f"{speed:,.0f} GFLOP/s" if speed >= 99.5 else f"{speed:.3g} GFLOP/s"


def _dollars(dollars: float) -> str:
    return "<$0.01" if 0 < dollars < 0.005 else f"${dollars:,.2f}"


def _others(console: Console, plan: Plan) -> None:
    setting = plan.chosen.setting
    workers = f"{setting.workers} GPUs" if setting.workers > 1 else "one GPU"
    _line(console, f"\n[bold]The same on {workers}, strategy {setting.strategy}[/]")
    rows = [_other(other) for other in plan.others]
    cells = {head: [row[head] for row in rows] for head in rows[0]}
    table = _table()
    heads = fitting(cells, _LEAST_NEEDED, console.width)
    for head in heads:
        # Names stay whole: they are what a machine is ordered by.
        table.add_column(head, justify="right" if head in _NUMBERS else "left", no_wrap=True)
    for row, other in zip(rows, plan.others, strict=True):
        colour = "green" if other.fits else "red"
        table.add_row(*(f"[{colour}]{row[head]}[/]" if head == _MARK else row[head] for head in heads))
    console.print(table)


def _other(other: Offer) -> dict[str, str]:
    return {
        "GPU": other.device.name,
        "peak": _PRECISIONS[other.precision],
        "needs": gib(other.needs),
        "has": gib(other.device.memory),
        _MARK: "✓" if other.fits else "✗",
        "time": _seconds(other.seconds[1]) if other.seconds and other.fits else "-",
        "cost": _dollars(other.dollars[1]) if other.dollars and other.fits else "-",
        "on": f"{other.machines} x {other.machine.name}" if other.machine else "",
    }


def _sources(console: Console, plan: Plan) -> None:
    way = plan.chosen.setting.way(plan.chosen.device.kind)
    kept = ("16 bits" if way.halved else "float32") + (", layers computed again" if way.recomputes else "")
    said = [
        f"Counted: weights, gradients, optimizer state, activations ({kept}), passing tensors, operations, checkpoints."
    ]
    if plan.measured:
        found = plan.measured
        said.append(
            f"Measured: {counted(found.steps, 'step')} of {found.batch} examples on {found.device}, "
            f"{_joined(_seconds(found.step_seconds), _range(found.fastest, found.slowest, _seconds))}, "
            f"{_speed(found.flops)}; "
            f"reading and augmenting an example {_seconds(found.input_seconds)}."
        )
    context = memory.CONTEXT["cpu" if plan.chosen.device.is_cpu else "gpu"]
    assumed = f"context {gib(context)}, slack {memory.SLACK:.0%}"
    if not plan.measured:
        assumed += (
            f", {_seconds(duration.INPUT_SECONDS * plan.work.counts.input_values)} to read and augment an example"
        )
    said.append(
        f"Assumed: {assumed}; GPUs reach {_reached(plan)}, and {duration.OVERLAP:.0%} of a pass hides traffic; "
        f"a store takes {duration.STORE / 1e6:.0f} MB/s a worker."
    )
    said.append(f"Not in the time: start-up, about {duration.START:.0f} s of Ray and imports.")
    said.append(f"Prices: {PRICED}; --prices FILE has yours. Not in them: start, images, storage, an early stop.")
    console.print()
    for line in said:
        console.print(f"[dim]{escape(line)}[/]", highlight=False)


def _reached(plan: Plan) -> str:
    """Return what share of which peak GPUs are taken to reach."""
    found = {offer.precision for offer in plan.others}
    names: dict[tuple[float, float, float], list[str]] = {}
    for precision, name in _PRECISIONS.items():
        if precision in found:
            names.setdefault(duration.UTILISATION[precision], []).append(name)
    return " and ".join(
        f"{low:.0%} to {high:.0%} of their {' or '.join(each)} peak" for (low, _, high), each in names.items()
    )


def _table() -> Table:
    return Table(box=None, padding=(0, 0, 0, BETWEEN), header_style="dim")


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False)


def _place(chosen: Offer) -> str:
    return "this machine's CPU" if chosen.device.is_cpu else f"{chosen.setting.workers} x {chosen.device.name}"


def _seconds(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 99.5:
        return f"{minutes:.1f} min" if minutes < 9.95 else f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 99.5 else f"{hours / 24:,.1f} days"


def machine_readable(plan: Plan) -> str:
    """Return a plan as JSON: bytes, seconds, dollars; ranges from the best to the worst."""
    counts = plan.work.counts
    done = counts.cost(plan.chosen.setting.way(plan.chosen.device.kind))
    content = {
        "classifier": plan.name,
        "architecture": plan.architecture,
        "fits": plan.chosen.fits,
        "parameters": counts.values,
        "learning": counts.learning,
        "examples": {
            "training": plan.examples.training,
            "validation": plan.examples.validation,
            "classes": len(plan.examples.classes),
            "known": plan.examples.known,
        },
        "plan": _offer(plan.chosen),
        "memory": {
            strategy: {"workers": setting.workers, **_camel(asdict(found)), "total": found.total}
            for strategy, (setting, found) in plan.memories.items()
        },
        "flops": {
            "forward": done.forward.at(plan.chosen.setting.examples),
            "backward": done.backward.at(plan.chosen.setting.examples),
        },
        "traffic": _camel(asdict(plan.traffic)),
        "gpus": [_offer(other) for other in plan.others],
        "measured": _camel(asdict(plan.measured)) if plan.measured else None,
        "prices": PRICED,
        "remarks": plan.remarks,
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _offer(offer: Offer) -> dict[str, Any]:
    machine = offer.machine
    return {
        "device": offer.device.name,
        "peak": offer.precision,
        "strategy": offer.setting.strategy,
        "workers": offer.setting.workers,
        "batchSize": offer.setting.batch,
        "fits": offer.fits,
        "needs": offer.needs,
        "has": offer.device.memory,
        "machine": machine and machine.name,
        "machines": offer.machines,
        "epochSeconds": [each.epoch for each in offer.durations] if offer.durations else None,
        "step": _camel(asdict(offer.durations[1].step)) if offer.durations else None,
        "seconds": offer.seconds,
        "dollars": offer.dollars,
    }


def _camel(content: dict[str, Any]) -> dict[str, Any]:
    return {to_camel(name): value for name, value in content.items()}
