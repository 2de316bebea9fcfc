"""Every part has every class, and no group is in two parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitruvian.data.split import count, split
from vitruvian.errors import DataError


def test_a_fifth_and_a_fifth_give_64_16_20() -> None:
    parts = split(["a"] * 500 + ["b"] * 500, None, 0.2, 0.2, seed=0)
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 640, "validation": 160, "test": 200}


@given(
    sizes=st.lists(st.integers(3, 60), min_size=2, max_size=6),
    test_size=st.floats(0.05, 0.9),
    validation_size=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**31),
)
def test_each_example_is_in_one_part_and_each_class_in_all(
    sizes: list[int], test_size: float, validation_size: float, seed: int
) -> None:
    labels = [f"class-{i}" for i, size in enumerate(sizes) for _ in range(size)]
    parts = split(labels, None, test_size, validation_size, seed)
    everything = np.concatenate(list(parts.values()))
    assert sorted(everything.tolist()) == list(range(len(labels)))
    for indices in parts.values():
        assert {labels[i] for i in indices} == set(labels)


@settings(max_examples=25, deadline=None)
@given(groups=st.integers(3, 12), each=st.integers(2, 10), seed=st.integers(0, 1000))
def test_no_group_is_in_two_parts(groups: int, each: int, seed: int) -> None:
    labels = ["a", "b"] * each * groups
    names = [f"group-{i // (2 * each)}" for i in range(len(labels))]
    parts = split(labels, names, 0.25, 0.25, seed)
    seen = [{names[i] for i in indices} for indices in parts.values()]
    assert sum(len(part) for part in seen) == groups


def test_groups_keep_the_shares_as_well_as_they_can() -> None:
    names = [f"subject-{i % 40}" for i in range(4000)]
    labels = [f"class-{(i // 40) % 8}" for i in range(4000)]
    parts = split(labels, names, 0.2, 0.2, seed=3)
    assert len(parts["test"]) == pytest.approx(800, abs=120)
    assert len(parts["validation"]) == pytest.approx(640, abs=120)


def test_the_same_seed_splits_the_same_way() -> None:
    labels = ["a", "b", "c"] * 30
    first, again, other = (split(labels, None, 0.2, 0.2, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_a_class_too_small_for_three_parts_is_named() -> None:
    with pytest.raises(DataError, match="no example of class 'rare' is left for the test part"):
        split(["common"] * 50 + ["rare"] * 2, None, 0.2, 0.2, seed=0)


def test_a_class_of_one_group_is_named() -> None:
    labels = ["a", "b"] * 20 + ["rare"] * 5
    names = [f"g{i // 8}" for i in range(40)] + ["only"] * 5
    with pytest.raises(DataError, match="class 'rare'"):
        split(labels, names, 0.2, 0.2, seed=0)


def test_one_group_cant_be_split() -> None:
    with pytest.raises(DataError, match="too few groups"):
        split(["a", "b"] * 5, ["g"] * 10, 0.2, 0.2, seed=0)


def test_counts_cover_every_class_of_every_part() -> None:
    labels = ["a"] * 10 + ["b"] * 5
    counts = count(labels, split(labels, None, 0.2, 0.2, seed=0))
    assert {name: sum(part.values()) for name, part in counts.items()} == {"train": 9, "validation": 3, "test": 3}
