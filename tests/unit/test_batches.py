"""Order and augmentation follow from (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitruvian.training.batches import Strength, augment, order, share


def test_each_epoch_shows_every_example_once_in_its_own_order() -> None:
    first, second = order(7, 0, 100), order(7, 1, 100)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert first.tolist() != second.tolist()
    assert first.tolist() == order(7, 0, 100).tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_workers_share_a_step_without_gap_or_overlap(world: int) -> None:
    step = order(0, 0, 30)
    shares = [share(step, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(30))


KINDS = [("image", (3, 32, 32)), ("heatmap", (17, 64, 48))]


@pytest.mark.parametrize(("kind", "shape"), KINDS)
@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_an_example_is_changed_the_same_way_in_any_company(
    kind: str, shape: tuple[int, ...], strength: Strength
) -> None:
    inputs = torch.rand(6, *shape)
    indices = np.array([5, 3, 11, 2, 8, 40])
    together = augment(inputs, indices, kind, strength, seed=1, epoch=2)
    alone = augment(inputs[2:3], indices[2:3], kind, strength, seed=1, epoch=2)
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together, inputs)


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_seed_epoch_and_index_all_count(kind: str, shape: tuple[int, ...]) -> None:
    inputs = torch.rand(1, *shape)
    made = [
        augment(inputs, np.array([index]), kind, "medium", seed, epoch)
        for seed, epoch, index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert all(not torch.equal(made[0], other) for other in made[1:])


def test_no_augmentation_changes_nothing() -> None:
    inputs = torch.rand(2, 3, 8, 8)
    assert augment(inputs, np.array([0, 1]), "image", "none", 0, 0) is inputs


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    augment(torch.rand(2, 3, 8, 8, generator=torch.Generator()), np.array([0, 1]), "image", "strong", 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_turned_heatmap_keeps_its_shape() -> None:
    """A rotation must not shear what isn't square: a round spot stays round."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(48.0), indexing="ij")
    spot = torch.exp(-((x - 24) ** 2 + (y - 20) ** 2) / 18).expand(1, 17, 64, 48)
    for epoch in range(5):
        turned = augment(spot, np.array([3]), "heatmap", "strong", 4, epoch)[0, epoch].double()
        weight = turned / turned.sum()
        middle_x, middle_y = (weight * x).sum(), (weight * y).sum()
        wide = (weight * (x - middle_x) ** 2).sum().sqrt()
        high = (weight * (y - middle_y) ** 2).sum().sqrt()
        assert float(wide / high) == pytest.approx(1, abs=0.02)
