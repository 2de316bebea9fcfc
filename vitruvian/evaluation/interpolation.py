"""Weights between the pretrained and the learnt ones (WiSE-FT, Wortsman et al., 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vitruvian.data.prepared import Prepared
from vitruvian.evaluation.predict import load_model, predict
from vitruvian.models import clip
from vitruvian.spec import Model


def interpolate(
    model: Model,
    points: Iterable[float],
    learnt: Path,
    prepared: Prepared,
    folder: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[float, float]:
    """Write the best of the weights between the pretrained and the learnt ones; return each point's accuracy.

    Accuracy is measured on the validation part; `advance` is told the examples done.
    """
    part = prepared.part("validation")
    first = clip.build(model.model_copy(update={"lora": None}), prepared.classes)
    last = load_model(model.architecture, learnt)
    assert isinstance(first, clip.PromptedClip) and isinstance(last, clip.PromptedClip)
    accuracy: dict[float, float] = {}
    for point in sorted(set(points)):
        answers = predict(clip.between(first, last, point).eval(), prepared, part, advance)
        accuracy[point] = float((answers.argmax(1) == part.labels).mean())
    clip.save(clip.between(first, last, choose(accuracy)), folder)
    return accuracy


def choose(accuracy: Mapping[float, float]) -> float:
    """Return the point with the best accuracy; of equals the one nearest to the pretrained weights.

    Those have seen more of the world than the validation part holds.
    """
    return min(accuracy, key=lambda point: (-accuracy[point], point))
