"""How a model is spread over workers."""

from __future__ import annotations

import pytest
from torch import nn

from vitruvian.training.parallel import groups


def layer(weights: int) -> nn.Module:
    return nn.Linear(weights, 1, bias=False)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([5, 5, 5], [[5], [5], [5]]),
        ([2, 2, 2, 2, 2], [[2, 2, 2, 2, 2]]),
        ([2, 2, 2, 2, 2, 2], [[2, 2, 2], [2, 2, 2]]),
        ([9, 1, 9], [[9], [1, 9]]),
        ([9, 1, 1], [[9, 1, 1]]),
        ([1, 1, 1], []),
        ([], []),
    ],
)
def test_layers_are_put_together_with_neighbours_until_they_are_enough(
    sizes: list[int], expected: list[list[int]]
) -> None:
    module = nn.ModuleDict({"layers": nn.ModuleList(map(layer, sizes)), "head": layer(100)})
    found = groups(module, least=5)
    assert [[sum(p.numel() for p in each.parameters()) for each in together] for together in found] == expected


def test_layers_of_two_towers_or_within_layers_are_kept_apart() -> None:
    images, texts = (nn.ModuleList([layer(3), layer(3)]) for _ in range(2))
    towers = nn.ModuleDict({"images": images, "texts": texts})
    assert groups(towers, least=6) == [[*images], [*texts]]
    assert groups(nn.ModuleList([towers]), least=6) == [[*images], [*texts]]
