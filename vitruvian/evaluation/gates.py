"""The conditions a bundle must meet: a pure decision from measured values, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vitruvian.bundle import GateDecision

TOLERANCE = 1e-9
"""How far below its limit a value passes still, so that rounding never decides."""


class Gate(Protocol):
    """What is asked of a gate; `vitruvian.spec.Gate` is one."""

    @property
    def metric(self) -> str: ...
    @property
    def at_least(self) -> float: ...
    @property
    def versus(self) -> str | None: ...


@dataclass(frozen=True)
class Decision:
    """All gates with their outcomes, in the order of the spec."""

    passed: bool
    gates: tuple[GateDecision, ...]

    @property
    def misses(self) -> tuple[str, ...]:
        """One line for each gate that failed."""
        return tuple(gate.text for gate in self.gates if not gate.passed)


def decide(gates: Iterable[Gate], measured: Mapping[str, float], champion: Mapping[str, float] | None) -> Decision:
    """Hold measured values against gates; no gates pass.

    `measured` and `champion` map a metric's name to its value on the same test part; `champion` is None where nothing
    serves yet, and then a comparison with it passes. A value that is missing or not a number fails.
    """
    outcomes = tuple(_outcome(gate, measured, champion) for gate in gates)
    return Decision(all(outcome.passed for outcome in outcomes), outcomes)


def explain(decision: Decision) -> list[str]:
    """Return one line for each gate, such as `accuracy 0.771 misses 0.790 by 0.019`."""
    return [gate.text for gate in decision.gates]


def condition(gate: Gate) -> str:
    """Return a gate as people write it: `accuracy >= 0.79`, `accuracy >= champion - 0.005`."""
    if gate.versus is None:
        return f"{gate.metric} >= {gate.at_least:g}"
    if gate.at_least == 0:
        return f"{gate.metric} >= {gate.versus}"
    return f"{gate.metric} >= {gate.versus} {'-' if gate.at_least < 0 else '+'} {abs(gate.at_least):g}"


def _outcome(gate: Gate, measured: Mapping[str, float], champion: Mapping[str, float] | None) -> GateDecision:
    value = _number(measured, gate.metric)
    baseline = 0.0 if gate.versus is None else _number(champion, gate.metric)
    required = None if baseline is None else baseline + gate.at_least
    if value is None:
        passed, text = False, f"{gate.metric} was not measured as a number"
    elif gate.versus is not None and champion is None:
        passed, text = True, f"{gate.metric} {value:.3f} passes: there is no {gate.versus} to compare with yet"
    elif required is None:
        passed, text = (
            False,
            f"{gate.metric} {value:.3f} can't be compared: the {gate.versus} has no such value",
        )
    else:
        passed = value >= required - TOLERANCE
        text = _compared(gate, value, required, passed)
    return GateDecision(gate=condition(gate), value=value, required=required, passed=passed, text=text)


def _compared(gate: Gate, value: float, required: float, passed: bool) -> str:
    digits = _digits(value - required)
    limit = f"{required:.{digits}f}" + ("" if gate.versus is None else f" ({condition(gate).partition(' >= ')[2]})")
    if passed:
        return f"{gate.metric} {value:.{digits}f} meets {limit}"
    return f"{gate.metric} {value:.{digits}f} misses {limit} by {required - value:.{digits}f}"


def _digits(difference: float) -> int:
    # A miss by 0.0004 must not read as "0.790 misses 0.790 by 0.000".
    size = abs(difference)
    return 3 if size >= 0.001 or size <= TOLERANCE else math.ceil(-math.log10(size))


def _number(values: Mapping[str, float] | None, metric: str) -> float | None:
    value = (values or {}).get(metric, math.nan)
    return value if math.isfinite(value) else None
