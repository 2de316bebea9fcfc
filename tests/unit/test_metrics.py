from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from vitruvian.errors import DataError, TrainingError
from vitruvian.evaluation.metrics import Metrics, calibration_error, measure, wilson

LABELS = ["kneeling", "sitting", "standing", "tree"]
Example = tuple[NDArray[np.int64], NDArray[np.float32]]


def example(n: int = 200, classes: int = 4, seed: int = 0, skill: float = 2.0) -> Example:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    scores = rng.normal(size=(n, classes))
    scores[np.arange(n), truth] += skill
    odds = np.exp(scores)
    return truth, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def certain(truth: list[int], predicted: list[int], classes: int) -> Example:
    return np.asarray(truth), np.eye(classes, dtype=np.float32)[predicted]


def test_a_small_example_gives_the_numbers_counted_by_hand() -> None:
    truth, probabilities = certain([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 0, 2, 2], 3)
    found = measure(truth, probabilities, LABELS[:3])
    assert found.examples == 8
    assert found.accuracy == 6 / 8
    assert found.confusion == ((3, 1, 0), (1, 1, 0), (0, 0, 2))
    assert [each.recall for each in found.classes] == [0.75, 0.5, 1.0]
    assert [each.accuracy for each in found.classes] == [0.75, 0.5, 1.0]
    assert [each.precision for each in found.classes] == [0.75, 0.5, 1.0]
    assert [each.support for each in found.classes] == [4, 2, 2]
    assert (found.worst_class, found.worst_class_recall) == ("sitting", 0.5)
    assert found.balanced_accuracy == 0.75
    assert [(p.truth, p.predicted, p.count, p.share) for p in found.most_confused] == [
        ("kneeling", "sitting", 1, 0.25),
        ("sitting", "kneeling", 1, 0.5),
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(2, 6), st.sampled_from([0.0, 1.0, 4.0]))
def test_every_number_agrees_with_scikit_learn(seed: int, n: int, classes: int, skill: float) -> None:
    truth, probabilities = example(n, classes, seed, skill)
    found = measure(truth, probabilities, [str(i) for i in range(classes)])
    predicted, every = probabilities.argmax(axis=1), list(range(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, support = reference.precision_recall_fscore_support(
            truth, predicted, labels=every, zero_division=0
        )
        weighted = reference.precision_recall_fscore_support(
            truth, predicted, labels=every, average="weighted", zero_division=0
        )
        balanced = reference.balanced_accuracy_score(truth, predicted)
        loss = reference.log_loss(truth, probabilities.astype(np.float64), labels=every)
    assert found.accuracy == pytest.approx(reference.accuracy_score(truth, predicted))
    assert (found.precision, found.recall, found.f1) == pytest.approx(weighted[:3])
    assert found.balanced_accuracy == pytest.approx(balanced)
    assert np.array_equal(found.confusion, reference.confusion_matrix(truth, predicted, labels=every))
    assert [each.precision for each in found.classes] == pytest.approx(precision.tolist())
    assert [each.recall for each in found.classes] == pytest.approx(recall.tolist())
    assert [each.f1 for each in found.classes] == pytest.approx(f1.tolist())
    assert [each.support for each in found.classes] == support.tolist()
    assert found.log_loss == pytest.approx(loss, rel=1e-4)


def test_the_headline_holds_what_gates_can_name() -> None:
    found = measure(*example(), LABELS)
    assert found.headline() == {
        "accuracy": found.accuracy,
        "balancedAccuracy": found.balanced_accuracy,
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "worstClassRecall": found.worst_class_recall,
    }
    assert all(type(value) is float for value in found.headline().values())


def test_a_class_without_examples_is_not_the_worst_one() -> None:
    truth, probabilities = certain([0, 0, 1, 1], [0, 0, 1, 3], 4)
    found = measure(truth, probabilities, LABELS)
    assert (found.worst_class, found.worst_class_recall, found.balanced_accuracy) == ("sitting", 0.5, 0.75)


def test_a_certain_wrong_answer_costs_much_and_not_infinity() -> None:
    truth, probabilities = certain([0, 1], [1, 1], 2)
    assert 5 < measure(truth, probabilities, LABELS[:2]).log_loss < 20


def test_metrics_survive_their_json() -> None:
    found = measure(*example(), LABELS)
    assert Metrics.model_validate_json(found.model_dump_json(by_alias=True)) == found
    assert "worstClassRecall" in found.model_dump(by_alias=True)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for share in (0.6, 0.9, 0.98):
        counts, times = np.unique(rng.binomial(120, share, size=4000), return_counts=True)
        covered = [wilson(int(count), 120).low <= share <= wilson(int(count), 120).high for count in counts]
        assert 0.92 < float(np.average(covered, weights=times)) < 0.985


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_accuracy_and_never_claims_certainty(counts: tuple[int, int]) -> None:
    correct, n = counts
    interval = wilson(correct, n)
    assert 0 <= interval.low <= correct / n <= interval.high <= 1
    assert interval.low < interval.high


def test_a_model_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    sure = np.tile(np.asarray([[0.75, 0.25]], np.float32), (400, 1))
    truth = np.asarray([0, 0, 0, 1] * 100)
    assert calibration_error(truth, sure) == pytest.approx(0, abs=1e-9)
    assert calibration_error(1 - truth, sure) == pytest.approx(0.5)


def test_no_examples_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"no examples.*data\.testSize"):
        measure(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), LABELS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_model_is_not_measured(bad: float) -> None:
    truth, probabilities = example()
    probabilities[3, 1] = bad
    with pytest.raises(TrainingError, match="diverged"):
        measure(truth, probabilities, LABELS)


def test_probabilities_of_another_shape_are_refused() -> None:
    truth, probabilities = example()
    with pytest.raises(ValueError, match="shape"):
        measure(truth, probabilities[:, :3], LABELS)
