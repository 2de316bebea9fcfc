from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitruvian.bundle import GateDecision
from vitruvian.evaluation.gates import decide, explain

share = st.floats(0, 1)


@dataclass(frozen=True)
class Gate:
    metric: str
    at_least: float
    versus: str | None = None


ABSOLUTE = Gate("accuracy", 0.79)
RELATIVE = Gate("accuracy", -0.005, "champion")


def test_a_miss_says_by_how_much() -> None:
    decision = decide([ABSOLUTE], {"accuracy": 0.771}, None)
    assert not decision.passed
    assert explain(decision) == ["accuracy 0.771 misses 0.790 by 0.019"]
    assert decision.gates[0].gate == "accuracy >= 0.79"
    assert (decision.gates[0].value, decision.gates[0].required) == (0.771, 0.79)


def test_a_pass_says_what_was_met() -> None:
    decision = decide([ABSOLUTE], {"accuracy": 0.9}, None)
    assert decision.passed
    assert decision.misses == ()
    assert explain(decision) == ["accuracy 0.900 meets 0.790"]


def test_a_miss_too_small_for_three_digits_is_still_shown() -> None:
    (line,) = explain(decide([ABSOLUTE], {"accuracy": 0.78996}, None))
    assert line == "accuracy 0.78996 misses 0.79000 by 0.00004"


@pytest.mark.parametrize("value", [0.79, 0.1 * 7.9, 0.79 - 1e-12])
def test_rounding_never_decides(value: float) -> None:
    assert decide([ABSOLUTE], {"accuracy": value}, None).passed


def test_the_champion_sets_the_limit_of_a_relative_gate() -> None:
    passed = decide([RELATIVE], {"accuracy": 0.895}, {"accuracy": 0.9})
    failed = decide([RELATIVE], {"accuracy": 0.88}, {"accuracy": 0.9})
    assert passed.passed
    assert explain(failed) == ["accuracy 0.880 misses 0.895 (champion - 0.005) by 0.015"]
    assert failed.gates[0].required == pytest.approx(0.895)
    assert failed.gates[0].gate == "accuracy >= champion - 0.005"


def test_without_a_champion_the_comparison_passes_and_says_so() -> None:
    decision = decide([RELATIVE], {"accuracy": 0.2}, None)
    assert decision.passed
    assert decision.gates[0].required is None
    assert explain(decision) == ["accuracy 0.200 passes: there is no champion to compare with yet"]


@pytest.mark.parametrize("measured", [{}, {"accuracy": math.nan}, {"accuracy": math.inf}])
@pytest.mark.parametrize("gate", [ABSOLUTE, RELATIVE])
def test_a_value_that_is_no_number_fails(gate: Gate, measured: dict[str, float]) -> None:
    decision = decide([gate], measured, None)
    assert not decision.passed
    assert decision.misses == ("accuracy was not measured as a number",)


@pytest.mark.parametrize("champion", [{}, {"accuracy": math.nan}])
def test_a_champion_without_the_value_fails_the_comparison(champion: dict[str, float]) -> None:
    decision = decide([RELATIVE], {"accuracy": 0.9}, champion)
    assert decision.misses == ("accuracy 0.900 can't be compared: the champion has no such value",)


def test_one_miss_of_many_fails_and_every_outcome_is_kept_in_order() -> None:
    gates = [ABSOLUTE, Gate("worstClassRecall", 0.5), RELATIVE]
    decision = decide(gates, {"accuracy": 0.9, "worstClassRecall": 0.4}, {"accuracy": 0.9})
    assert not decision.passed
    assert [gate.passed for gate in decision.gates] == [True, False, True]
    assert decision.misses == ("worstClassRecall 0.400 misses 0.500 by 0.100",)


def test_no_gates_pass() -> None:
    assert decide([], {}, None).passed


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_a_decision_survives_its_json(value: float) -> None:
    (gate,) = decide([ABSOLUTE], {"accuracy": value}, None).gates
    assert GateDecision.model_validate_json(gate.model_dump_json(by_alias=True)) == gate


@given(share, share, share)
def test_a_better_value_never_turns_a_pass_into_a_miss(limit: float, value: float, gain: float) -> None:
    gate = Gate("f1", limit)
    if decide([gate], {"f1": value}, None).passed:
        assert decide([gate], {"f1": value + gain}, None).passed


@given(share, share)
def test_the_words_never_contradict_the_decision(limit: float, value: float) -> None:
    decision = decide([Gate("f1", limit)], {"f1": value}, None)
    (line,) = explain(decision)
    assert (" misses " in line) is not decision.passed
    if not decision.passed:
        _, shown, _, required, _, short = line.split()
        assert float(shown) <= float(required)
        assert float(short) > 0
