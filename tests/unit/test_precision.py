"""In how many bits matrices are multiplied, and how losses are scaled."""

from __future__ import annotations

import pytest
import torch

from vitruvian.errors import TrainingError
from vitruvian.spec import Precision, Training
from vitruvian.training.precision import LossScale, half, name


@pytest.mark.parametrize(
    ("asked", "built", "used"),
    [
        ("auto", None, "fp32"),
        ("auto", True, "bf16"),
        ("auto", False, "fp16"),
        ("fp32", True, "fp32"),
        ("bf16", False, "bf16"),
        ("fp16", True, "fp16"),
        ("fp16", None, "fp16"),
    ],
)
def test_a_machine_multiplies_in_what_it_is_built_for_unless_told(
    asked: Precision, built: bool | None, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`built`: whether its GPU is built for bf16; None: it has no GPU."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: built)
    device = torch.device("cpu" if built is None else "cuda")
    assert name(half(Training(precision=asked), device)) == used


@pytest.mark.parametrize(
    ("before", "finite", "after"),
    [
        (LossScale(8.0, 5), True, LossScale(8.0, 6)),
        (LossScale(8.0, 1999), True, LossScale(16.0, 0)),
        (LossScale(8.0, 5), False, LossScale(4.0, 0)),
        (LossScale(8.0, 0), False, LossScale(4.0, 0)),
    ],
)
def test_losses_are_scaled_up_as_far_as_gradients_stay_finite(
    before: LossScale, finite: bool, after: LossScale
) -> None:
    assert before.after(finite) == after


def test_the_scale_moves_as_that_of_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    peer, ours = torch.amp.GradScaler("cpu"), LossScale()
    for step in range(6100):
        finite = step not in (0, 1, 2500, 4600)
        peer.scale(torch.zeros(()))
        weight.grad = torch.full((1,), 1.0 if finite else float("inf"))
        peer.step(optimizer)
        peer.update()
        ours = ours.after(finite)
        assert ours.factor == peer.get_scale(), step


def test_gradients_that_are_never_finite_end_the_training() -> None:
    scale = LossScale()
    for _ in range(30):
        scale = scale.after(False)
    with pytest.raises(TrainingError, match="float16 aren't finite any more; set a smaller learningRate, or precision"):
        scale.after(False)
